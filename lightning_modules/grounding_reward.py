"""A reward for traces that fit the sound: what AGFV asks of the teacher's traces, asked of the student's own."""

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from answers.answer_text import extract_answer
from datamodules.batching.batch import AudioQABatch
from datamodules.batching.heard_traces import LabelledTraces
from datamodules.traces import thought
from lightning_modules.objectives.batch_reward import BatchReward
from records.reasoning_tags import split_thought
from records.records import Question, Trace
from runtime.errors import UserError

Judgement = tuple[float, ...] | None
"""How probable it is that a trace fits, as a whole or each of its claims; None where nobody could say."""

_TRIED = 4
"""Clips of a batch whose trace is judged with noise too, until the noise makes a difference."""

_PATIENCE = 40
"""So many traces may be judged the same with noise before that is said."""


class Judge(ABC):
    """Says whether what traces say fits the sound of their clips.

    Attributes:
        metrics: What is logged of the last batch by names of its own; the same names at each batch and on each rank.
    """

    metrics: Mapping[str, float] = {}

    @abstractmethod
    def judge(self, items: Sequence[LabelledTraces]) -> list[list[Judgement]]:
        """Judge traces, all of which think.

        Args:
            items: Traces by their question, with the samples of its clip.

        Returns:
            What is said of each trace of each item.
        """

    def prepare(self, device: torch.device, rank: int, world_size: int) -> None:  # noqa: B027  (may do nothing)
        """Make ready, as :meth:`.objectives.batch_reward.BatchReward.prepare` says."""

    def close(self) -> None:  # noqa: B027  (may do nothing)
        """Let go of what :meth:`prepare` took."""


class GroundingReward(BatchReward):
    """How well a completion's thoughts and answer fit the clip, from 0 to 1; 0 where nothing is thought or claimed.

    A trace that could not be judged gets the mean of its question's others, so that it is neither better nor worse than
    they are; ``train/grounding_unjudged`` is the share of such traces, and a run in which it becomes too large ends. On
    the first batches some traces are judged with noise in the clip's place too: a judge whose probabilities do not
    depend on the sound is refused.
    """

    def __init__(
        self, judge: Judge, threshold: float | None = None, max_unjudged: float = 0.5, name: str = "grounding"
    ) -> None:
        """Prepare; nothing is loaded or sent before training.

        Args:
            judge: Who says whether a trace fits: TrainedJudge or EndpointJudge of ``lightning_modules``.
            threshold: Least probability that counts, as 1, all else as 0; null takes the probability as it is. Of
                several claims the mean is taken.
            max_unjudged: Largest share of a batch's traces on a rank that may go without a judgement.
            name: Under which it is logged; two need different names.
        """
        for setting, value in (("threshold", threshold), ("max_unjudged", max_unjudged)):
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"GroundingReward: {setting} must be between 0 and 1, found {value}")
        self.judge = judge
        self.threshold = threshold
        self.max_unjudged = max_unjudged
        self.name = name
        self._hears = False
        self._alike = 0

    def prepare(self, device: torch.device, rank: int, world_size: int) -> None:
        """Make the judge ready."""
        self.judge.prepare(device, rank, world_size)

    def close(self) -> None:
        """Let the judge go."""
        self.judge.close()

    def grade(self, batch: AudioQABatch) -> Tensor:
        """Grade a batch; see :class:`.objectives.batch_reward.BatchReward`."""
        begun = time.perf_counter()
        done = batch.completions
        assert done is not None
        ends = done.finished.tolist()
        items = [
            heard(
                question,
                waveform,
                [trace_of(question, g, *said) for g, said in enumerate(zip(texts, ended, strict=True))],
            )
            for question, waveform, texts, ended in zip(batch.questions, batch.waveforms, done.texts, ends, strict=True)
        ]
        rewards = torch.zeros(len(items), len(done.texts[0]))
        wanted = [item for item in items if item.traces]
        judged = self.judge.judge(wanted)
        metrics = dict(self.judge.metrics)
        where = [(b, trace.sample) for b, item in enumerate(items) for trace in item.traces]
        found = [judgement for row in judged for judgement in row]
        unknown = torch.zeros(rewards.shape, dtype=torch.bool)
        for place, judgement in zip(where, found, strict=True):
            if judgement is None:
                unknown[place] = True
            else:
                rewards[place] = self._value(judgement)
        unjudged = sum(judgement is None for judgement in found) / max(len(found), 1)
        if unjudged > self.max_unjudged:
            raise UserError(
                f"reward function {self.name!r}: {unjudged:.0%} of the traces of a batch could not be judged (question "
                f"{items[where[0][0]].question.id} is among the batch's), more than its max_unjudged "
                f"({self.max_unjudged:.0%}): see the warnings before"
            )
        self._listens(wanted, judged)
        self.metrics = {
            f"train/{self.name}_unjudged": unjudged,
            f"train/{self.name}_without_thought": 1 - len(found) / rewards.numel(),
            **{f"train/{self.name}_{metric}": value for metric, value in metrics.items()},
            f"time/{self.name}": time.perf_counter() - begun,
        }
        return with_means(rewards, unknown)

    def _value(self, probabilities: tuple[float, ...]) -> float:
        if not probabilities:
            return 0.0  # it claims nothing
        least = self.threshold
        return float(np.mean([p if least is None else float(p >= least) for p in probabilities]))

    def _listens(self, items: Sequence[LabelledTraces], judged: Sequence[Sequence[Judgement]]) -> None:
        """Refuse a judge that says the same whatever is heard."""
        if self._hears or self._alike >= _PATIENCE:
            return
        known = [(item, row[0]) for item, row in zip(items, judged, strict=True) if row[0]][:_TRIED]
        noisy = self.judge.judge([_with_noise(item) for item, _ in known])
        pairs = [(first, row[0]) for (_, first), row in zip(known, noisy, strict=True) if row[0]]
        self._hears = any(_differ(first, second) for first, second in pairs)
        if self._hears or not pairs:
            return
        self._alike += len(pairs)
        if any(0 < p < 1 for first, _ in pairs for p in first):
            raise UserError(
                f"reward function {self.name!r}: {len(pairs)} traces were judged with noise in place of their clips, "
                "and each probability stayed the same: the judge does not hear the clips; check its weights, or that "
                "the endpoint's model takes audio"
            )
        if self._alike >= _PATIENCE:
            rank_zero_warn(
                f"reward function {self.name!r}: {self._alike} traces were judged the same with noise in place of "
                "their clips; check that the judge hears them"
            )


def trace_of(question: Question, sample: int, completion: str, finished: bool) -> Trace:
    """Return a completion as a trace of the student.

    Args:
        question: The question.
        sample: Which of its completions.
        completion: The text.
        finished: False where it was cut.
    """
    reasoning = split_thought(completion).reasoning
    return Trace(question.id, sample, reasoning, extract_answer(completion, finished), "student")


def heard(question: Question, waveform: np.ndarray, traces: Sequence[Trace]) -> LabelledTraces:
    """Return those traces of a question that think, with its clip.

    Args:
        question: The question.
        waveform: Its clip.
        traces: Its traces.
    """
    kept = tuple(trace for trace in traces if thought(trace))
    return LabelledTraces(question, kept, (None,) * len(kept), waveform)


def with_means(rewards: Tensor, unknown: Tensor) -> Tensor:
    """Return rewards in which those that are not known are the mean of their question's others.

    Args:
        rewards: The rewards ``[B, G]``.
        unknown: True where there is none ``[B, G]``; where a question has none at all it is the mean of the batch.
    """
    known = ~unknown
    whole = rewards[known].mean() if known.any() else rewards.new_zeros(())
    count = known.sum(-1, keepdim=True)
    mean = torch.where(count > 0, (rewards * known).sum(-1, keepdim=True) / count.clamp(min=1), whole)
    return torch.where(unknown, mean, rewards)


def _with_noise(item: LabelledTraces) -> LabelledTraces:
    """Return an item's first trace with noise in place of its clip."""
    assert item.waveform is not None
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(item.waveform)).astype(np.float32)
    return dataclasses.replace(item, traces=item.traces[:1], accepted=(None,), waveform=noise)


def _differ(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return len(first) != len(second) or any(abs(a - b) > 1e-9 for a, b in zip(first, second, strict=True))
