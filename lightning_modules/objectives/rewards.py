"""Rewards of completions: accuracy (+1) and format (+1), so r is 0, 1 or 2 (paper, section 3.3); and a length penalty.

Any class with a ``name`` and ``__call__(completion, question, label)`` can be added by ``class_path``, annotated or
not; so can a plain function, by its import path.
"""

from typing import Protocol

import torch
from torch import Tensor

from answers.answers import match_option
from datamodules.batching.batch import AudioQABatch
from lightning_modules.objectives.reward_checks import graded, wanted_facts
from records.reasoning_tags import exact_parts
from records.records import Question
from runtime.errors import UserError


class RewardFunction(Protocol):
    """What a reward function looks like.

    One that has a further parameter ``finished: bool`` is told there whether the completion came to its end, or was cut
    at the token limit; one with a parameter ``tokens: int`` how many tokens it has, the end token included.
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


class OverlongPenalty:
    """From 0 down to -1 over the last tokens before the limit (DAPO's soft overlong punishment).

    Yu et al., 2025, arXiv:2503.14476, Eq. 13: 0 up to ``max_tokens - buffer`` tokens, -1 from ``max_tokens`` on, a
    straight line between. It is a reward like any other, to be added to those there are.
    """

    name = "overlong"

    def __init__(self, max_tokens: int, buffer: int) -> None:
        """Draw the line.

        Args:
            max_tokens: Where the penalty is full; as a rule ``max_new_tokens`` of the rollout callback.
            buffer: How many tokens before that it begins.
        """
        if not 0 < buffer <= max_tokens:
            raise UserError(
                f"OverlongPenalty: buffer is {buffer} and max_tokens {max_tokens}; the buffer lies within max_tokens"
            )
        self.max_tokens = max_tokens
        self.buffer = buffer

    def __call__(self, completion: str, question: Question, label: str | None, tokens: int) -> float:
        """Grade one completion; see :class:`RewardFunction`."""
        return -min(max((tokens - (self.max_tokens - self.buffer)) / self.buffer, 0.0), 1.0)


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
    done = batch.completions
    facts = {"finished": done.finished.tolist(), "tokens": done.lengths.tolist()}
    rows = list(zip(done.texts, batch.questions, batch.labels, strict=True))
    found = {}
    for function in functions:
        wanted = wanted_facts(function)
        found[function.name] = torch.tensor(
            [
                [
                    graded(function, text, question, label, **{fact: facts[fact][b][g] for fact in wanted})
                    for g, text in enumerate(texts)
                ]
                for b, (texts, question, label) in enumerate(rows)
            ],
            dtype=torch.float32,
        )
    return found
