"""Prompts that are too long are found before the first step, mostly without tokenizing and decoding."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from benchmarks.fake_server import FakeServer
from callbacks.rollout.prompt_lengths import sentence, too_long
from datamodules.audio_qa import AudioQADataModule
from datamodules.batching.collate import Collator
from datamodules.batching.items import Item
from datamodules.prompts.questions import THINK_SHORT
from lightning_modules.models.checkpoints.checkpoint_folder import load_processor
from records.records import Question
from runtime.errors import UserError
from tests.callbacks.rollout.test_vllm_rollout import rollouts, trainer
from tests.support.questions import Learner, clip, example


class Counting(Collator):
    tokenized = 0

    def request_ids(self, question: Question) -> list[int]:
        self.tokenized += 1
        return super().request_ids(question)


@pytest.fixture(scope="module")
def collator(server_weights: Path) -> Counting:
    return Counting(load_processor(str(server_weights)), THINK_SHORT)


EXAMPLES = [example(number, clip(0.4 + 0.313 * number)) for number in range(6)]
QUESTIONS = [each.question for each in EXAMPLES]


def load(question: Question) -> np.ndarray:
    return next(each.waveform for each in EXAMPLES if each.question is question)


def seconds(question: Question) -> float:
    return round(len(load(question)) / 16_000, 2)


def no_clip(question: Question) -> np.ndarray:
    pytest.fail("a clip was decoded")


def test_what_does_not_fit_is_what_the_batch_would_have(collator: Counting):
    lengths = {each.question.id: int(collator([each]).prompt_lengths[0]) for each in EXAMPLES}
    for most in range(min(lengths.values()) - 1, max(lengths.values()) + 2):
        expected = {name: length for name, length in lengths.items() if length > most}
        for known in (seconds, lambda question: None):
            found = too_long(QUESTIONS, collator, most, known, load)
            assert {one.question.id: one.tokens for one in found}.keys() == expected.keys()
    found = too_long(QUESTIONS, collator, 10, lambda question: None, load)
    assert found[0].tokens >= found[-1].tokens


def test_prompts_with_much_room_are_not_even_tokenized(collator: Counting):
    before = collator.tokenized
    assert too_long(QUESTIONS, collator, 2000, lambda question: None, no_clip) == []
    assert collator.tokenized == before


def test_no_clip_is_decoded_whose_length_is_known(collator: Counting):
    longest = max(int(collator([each]).prompt_lengths[0]) for each in EXAMPLES)
    assert too_long(QUESTIONS, collator, longest + 1, seconds, no_clip) == []


def test_the_sentence_says_what_to_do(collator: Counting):
    found = too_long(QUESTIONS, collator, 10, seconds, load)
    said = sentence(found, 6, 10, 5, "http://server")
    assert f"6 of 6 questions do not fit into the 15 tokens of http://server ({found[0].question.id}, " in said
    assert f"--max-model-len {found[0].tokens + 5}" in said


class Data(AudioQADataModule):
    """Six questions for training, of which one may be long, and three for validation."""

    dataset = "test"
    long = ""

    def split_of(self, role: Any) -> str:
        return "train" if role == "train" else "val"

    def annotation_file(self, split: str) -> Path:
        return self.root

    def parse_row(self, row: Any, split: str) -> None:
        return None

    @property
    def splits(self) -> Any:
        return SimpleNamespace(questions=self.few, clip_seconds={})

    def few(self, split: str) -> list[Question]:
        few = QUESTIONS if split == "train" else QUESTIONS[:3]
        if split == self.long:
            few = [*few[:-1], dataclasses.replace(few[-1], text="Which sound? " * 60)]
        return list(few)

    def train_dataloader(self) -> Any:
        items = [Item(question, "dog") for question in self.questions("train")]
        return DataLoader([dataclasses.replace(EXAMPLES[0], question=item.question) for item in items], 1,
                          collate_fn=self.collator)  # fmt: skip

    def val_dataloader(self) -> Any:
        return DataLoader(EXAMPLES[:3], 1, collate_fn=self.collator)  # type: ignore[arg-type]


@pytest.mark.parametrize("long", ["train", "val"])
def test_one_long_prompt_ends_the_run_before_its_first_step(tmp_path: Path, server_weights: Path, long: str):
    module = Learner(str(server_weights))
    data = Data(str(tmp_path), processor=str(server_weights), prompt="think", num_workers=0)
    data.long = long
    with FakeServer(server_weights) as server:
        run = trainer(tmp_path, rollouts(server), limit_val_batches=1)
        with pytest.raises(UserError, match=rf"1 of {6 if long == 'train' else 3} questions do not fit into the 768"):
            run.fit(module, datamodule=data)
        assert server.generated == [] and server.pushes() == []
        data = Data(str(tmp_path), processor=str(server_weights), prompt="think", num_workers=0)
        trainer(tmp_path, rollouts(server), limit_val_batches=1, max_steps=1).fit(module, datamodule=data)
        assert server.generated
