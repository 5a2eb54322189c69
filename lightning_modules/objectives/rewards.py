"""Rewards of completions: accuracy (+1) and format (+1), so r is 0, 1 or 2 (paper, section 3.3).

Any class with a ``name`` and ``__call__(completion, question, label)`` can be added by ``class_path``, annotated or
not; so can a plain function, by its import path.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from answers.answers import match_option
from datamodules.batching.batch import AudioQABatch
from lightning_modules.objectives.reward_checks import graded, wants_ending
from records.reasoning_tags import exact_parts
from records.records import Question


class RewardFunction(Protocol):
    """What a reward function looks like.

    One that has a further parameter ``finished: bool`` is told there whether the completion came to its end, or was cut
    at the token limit.
    """

    name: str

    def __call__(self, completion: str, question: Question, label: str | None) -> float:
        """Grade one completion.

        Args:
            completion: Its text, without the end token.
            question: The question that it answers.
            label: Text of the option that is to be rewarded, or None where there is none.

        Returns:
            The reward.
        """


class AccuracyReward:
    """1 when the completion chooses the labelled option, else 0; read as tables read it.

    The label is the text of an option, so an option with exactly this text is what is rewarded, whatever else the text
    could mean. A completion that was cut before ``</answer>`` has chosen nothing.
    """

    name = "accuracy"

    def __call__(self, completion: str, question: Question, label: str | None, finished: bool = True) -> float:
        """Grade one completion; see :class:`RewardFunction`."""
        if label is None:
            return 0.0
        chosen = match_option(completion, question.options, finished)
        if label in question.options:
            return float(chosen is not None and question.options[chosen] == label)
        return float(chosen is not None and chosen == match_option(label, question.options))


class FormatReward:
    """1 for exactly ``<think>...</think><answer>...</answer>`` with something in both and no tag twice, else 0."""

    name = "format"

    def __call__(self, completion: str, question: Question, label: str | None) -> float:
        """Grade one completion; see :class:`RewardFunction`."""
        return float(exact_parts(completion) is not None)


def compute_rewards(batch: AudioQABatch, functions: "list[RewardFunction]") -> dict[str, Tensor]:
    """Grade all completions of a batch.

    Args:
        batch: Questions with completions and labels.
        functions: The reward functions; names must differ.

    Returns:
        For each function the rewards ``[B, G]``, in main memory.

    Raises:
        ValueError: The batch has no completions, or two functions share a name.
        RewardError: A function raised or did not return a finite number.
    """
    if batch.completions is None:
        raise ValueError("the batch has no completions to grade")
    if len({function.name for function in functions}) < len(functions):
        raise ValueError(f"reward functions need names of their own, found {[f.name for f in functions]}")
    finished = batch.completions.finished.tolist()
    rows = list(zip(batch.completions.texts, finished, batch.questions, batch.labels, strict=True))
    return {
        function.name: torch.tensor(
            [
                [graded(function, text, question, label, *ending(end)) for text, end in zip(texts, ends, strict=True)]
                for texts, ends, question, label in rows
            ],
            dtype=torch.float32,
        )
        for function in functions
        for ending in [_ending(function)]
    }


def _ending(function: RewardFunction) -> Callable[[bool], tuple[bool, ...]]:
    """Return what turns the knowledge of a completion's end into a further argument, for functions that want it."""
    wanted = wants_ending(function)
    return lambda finished: (finished,) if wanted else ()
