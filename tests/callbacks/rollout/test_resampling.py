"""Questions that nothing could be learned of are asked again within the step."""

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch

from benchmarks.fake_server import FakeServer
from callbacks.rollout.local_rollout import LocalRollout
from callbacks.rollout.rollout_callback import request_seeds
from callbacks.rollout.vllm_rollout import VLLMRollout
from datamodules.batching.batch import AudioQABatch
from datamodules.batching.sampler import ResumableLoader
from lightning_modules.doors import GradedRollouts, TrainingRollouts
from lightning_modules.grpo import GRPOModule
from records.records import Question
from runtime.errors import UserError
from tests.support.questions import Learner, Questions

IDS = ["test/0", "test/1", "test/2"]


class Judging(Learner, GradedRollouts):
    """A learner that is told which groups are dead, time after time."""

    def __init__(self, weights: str, told: list[list[bool]], resamples: int = 3, spares: int = 0) -> None:
        super().__init__(weights, num_completions=3)
        self.told = told
        self.resamples, self.spares = resamples, spares

    @property
    def training_rollouts(self) -> TrainingRollouts:
        return TrainingRollouts(3, max_resamples=self.resamples, spare_prompts=self.spares)

    def dead_groups(self, batch: AudioQABatch) -> np.ndarray:
        return np.array(self.told.pop(0))


def trainer(tmp_path: Path, *callbacks: lightning.Callback, **more: Any) -> lightning.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    settings = {"accelerator": "cpu", "max_epochs": 1, "limit_val_batches": 0, "enable_model_summary": False, **quiet}
    return lightning.Trainer(callbacks=list(callbacks), default_root_dir=tmp_path, **{**settings, **more})


def asked(server: FakeServer) -> list[int]:
    return [one["body"]["sampling_params"]["seed"] for one in server.generated]


@pytest.mark.parametrize("staleness", [0, 1])
def test_only_dead_groups_are_asked_again(tmp_path: Path, server_weights: Path, staleness: int) -> None:
    told = [[True, False, True], [False, False, True], [False, False, True]]
    module = Judging(str(server_weights), told)
    with FakeServer(server_weights) as server:
        settings = {"max_new_tokens": 6, "parity_gate": False, "seed": 7, "max_staleness": staleness}
        callback = VLLMRollout([server.url], wait_seconds=5, retry_seconds=10, **settings)  # type: ignore[arg-type]
        data = Questions(module.student.processor, 3, 3)
        if staleness:
            data.train_dataloader = lambda: ResumableLoader(data.examples, 3, collate_fn=data.collate)  # type: ignore
        trainer(tmp_path, callback).fit(module, data)
    seeds = [request_seeds(7, 0, IDS, attempt) for attempt in range(4)]
    assert len({seed for some in seeds for seed in some}) == 12
    wanted = [*seeds[0], seeds[1][0], seeds[1][2], seeds[2][2], seeds[3][2]]
    assert sorted(asked(server)) == sorted(wanted)
    done = module.train_batches[0].completions
    assert done is not None and done.seeds == [seeds[1][0], seeds[0][1], seeds[3][2]]
    # the server's completions have six tokens: two groups of three were thrown away, then one, then one
    assert (done.discarded_groups, done.discarded_tokens) == (4, 4 * 3 * 6)
    assert module.told == []


@pytest.mark.parametrize("staleness", [0, 1])
def test_spare_questions_take_the_places_of_dead_ones(tmp_path: Path, server_weights: Path, staleness: int) -> None:
    """Asked again once, then 0 and 2 give way to the spare 3 and 4, of which 3 is dead too and gives way to 5."""
    told = [[True, False, True]] * 2 + [[True, False, False]] * 2
    module = Judging(str(server_weights), told, resamples=1, spares=3)
    with FakeServer(server_weights) as server:
        settings = {"max_new_tokens": 6, "parity_gate": False, "seed": 7, "max_staleness": staleness}
        callback = VLLMRollout([server.url], wait_seconds=5, retry_seconds=10, **settings)  # type: ignore[arg-type]
        data = Questions(module.student.processor, 6, 3, spares=3)
        if staleness:
            plain = data.train_dataloader().collate_fn
            data.train_dataloader = lambda: ResumableLoader(data.examples, 6, collate_fn=plain)  # type: ignore
        trainer(tmp_path, callback).fit(module, data)
    ids = [f"test/{number}" for number in range(6)]
    first, again = request_seeds(7, 0, ids), request_seeds(7, 0, ids, 1)
    assert sorted(asked(server)) == sorted([*first, again[0], again[2]])
    batch = module.train_batches[0]
    assert [one.id for one in batch.questions] == ["test/5", "test/1", "test/4"] and len(batch) == 3
    assert batch.labels == ["cat", "cat", "dog"] and batch.features.shape[0] == batch.prompt_ids.shape[0] == 3
    done = batch.completions
    assert done is not None and done.seeds == [first[5], first[1], first[4]]
    assert (done.discarded_groups, done.refilled_groups, done.discarded_tokens) == (2, 3, 5 * 3 * 6)


def test_spare_questions_that_nobody_brings_are_missed(tmp_path: Path, server_weights: Path) -> None:
    module = Judging(str(server_weights), [], spares=2)
    with FakeServer(server_weights) as server, pytest.raises(UserError, match=r"is 2, and the batch has 0 spare"):
        callback = VLLMRollout([server.url], max_new_tokens=6, parity_gate=False, seed=7, wait_seconds=5)
        trainer(tmp_path, callback).fit(module, Questions(module.student.processor, 3, 3))


def test_nothing_is_asked_again_unless_wanted(tmp_path: Path, server_weights: Path) -> None:
    module = Learner(str(server_weights), num_completions=3)
    with FakeServer(server_weights) as server:
        callback = VLLMRollout([server.url], max_new_tokens=6, parity_gate=False, seed=7, wait_seconds=5)
        trainer(tmp_path, callback).fit(module, Questions(module.student.processor, 3, 3))
    assert len(server.generated) == 3 and module.train_batches[0].completions.discarded_tokens == 0


def test_a_rank_without_dead_groups_goes_the_same_rounds(
    tmp_path: Path, server_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Judging(str(server_weights), [[False] * 3, [False] * 3])
    said: list[bool] = []
    agreed: list[bool] = []
    with FakeServer(server_weights) as server:
        callback = VLLMRollout([server.url], max_new_tokens=6, parity_gate=False, seed=7, wait_seconds=5)
        fit = trainer(tmp_path, callback)

        def another_rank_has_one(decision: bool, all: bool = True) -> bool:
            if all:
                return decision  # Lightning's own
            said.append(decision)
            return len(said) == 1

        monkeypatch.setattr(fit.strategy, "reduce_boolean_decision", another_rank_has_one)
        drawn = callback._servers.all_have_drawn
        monkeypatch.setattr(
            callback._servers, "all_have_drawn", lambda trainer, there: agreed.append(there) or drawn(trainer, there)
        )
        fit.fit(module, Questions(module.student.processor, 3, 3))
    assert said == [False, False] and agreed == [True, True]
    assert len(server.generated) == 3


class FirstLetters:
    """A reward that differs within the first question's groups only."""

    name = "letters"

    def __call__(self, completion: str, question: Question, label: str | None) -> float:
        return sum(completion.encode()) % 97 / 97 if question.id == "test/0" else 1.0


def test_grpo_says_what_was_wasted(tmp_path: Path, server_weights: Path) -> None:
    module = GRPOModule(str(server_weights), num_completions=2, max_resamples=2, reward_functions=[FirstLetters()])
    kept: list[tuple[dict[str, float], Any]] = []

    class Keeps(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            kept.append(({n: float(v) for n, v in trainer.callback_metrics.items()}, rest[2].completions))

    rollout = LocalRollout(max_new_tokens=5, seed=1)
    trainer(tmp_path, rollout, Keeps(), max_steps=1).fit(module, Questions(module.student.processor, 2, 2))
    metrics, done = kept[0]
    assert metrics["train/resampled"] == 2  # the second question, twice
    assert metrics["train/wasted_tokens"] == done.discarded_tokens + done.lengths[1].sum() > 0
    assert metrics["train/frac_reward_zero_std"] == 0.5
    assert torch.isfinite(torch.tensor(metrics["train/loss"]))


def test_chosen_questions(server_weights: Path) -> None:
    data = Questions(Learner(str(server_weights)).student.processor, 4, 4)
    batch = next(iter(data.train_dataloader()))
    part = batch.chosen([3, 1])
    assert [one.id for one in part.questions] == ["test/3", "test/1"] and len(part) == 2
    assert torch.equal(part.prompt_ids, batch.prompt_ids[[3, 1]]) and torch.equal(part.features, batch.features[[3, 1]])
    assert part.prompt_lengths.tolist() == [int(batch.prompt_lengths[3]), int(batch.prompt_lengths[1])]
    assert part.waveforms[0] is batch.waveforms[3] and part.completions is None and part.audio is None
