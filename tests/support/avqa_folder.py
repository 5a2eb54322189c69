"""AVQA with clips that can be told apart by their samples, for students that are rules."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from callbacks.rollout.rollout_callback import RolloutCallback
from inference.vllm.sampling import CompletionOutput
from tests.support.dataset_files import avqa_row


def write_avqa(root: Path, train: Sequence[int], val: Sequence[int]) -> Path:
    """Write questions, each about a clip of its own; their right answers are the numbers that are given."""
    (root / "videos").mkdir(parents=True)
    for split, answers in (("train", train), ("val", val)):
        rows = [{**avqa_row(n), "video_name": f"{split}{n}", "answer": answer} for n, answer in enumerate(answers)]
        (root / f"{split}_qa.json").write_text(json.dumps(rows))
        for n in range(len(answers)):
            soundfile.write(root / "videos" / f"{split}{n}.wav", loudness(f"{split}{n}"), 16_000, subtype="FLOAT")
    return root


def loudness(name: str) -> np.ndarray:
    """A clip that is known by its level."""
    return np.full(1_600, (1 + int("".join(filter(str.isdigit, name)))) / 1_000, np.float32)


class RuledStudent(RolloutCallback):
    """Answers by a rule: what it is given is the question, whether its own clip is heard, and a random generator."""

    def __init__(self, rule: Any) -> None:
        super().__init__()
        self.rule = rule
        self.asked: list[str] = []

    def sample(self, trainer: Any, pl_module: Any, batch: Any, sampling: Any) -> Any:
        tokenizer = pl_module.student.processor.tokenizer
        drawn = []
        for question, waveform, how in zip(batch.questions, batch.waveforms, sampling, strict=True):
            self.asked.append(question.id)
            own = np.array_equal(waveform, loudness(Path(question.media).stem))
            rng = np.random.default_rng(how.seed)
            said = [question.options[self.rule(question, own, rng)] for _ in range(how.n)]
            ids = [tokenizer(f"<answer>{option}</answer>")["input_ids"] for option in said]
            drawn.append([CompletionOutput(tokens, [0.0] * len(tokens), finished=True) for tokens in ids])
        return drawn, "rule"
