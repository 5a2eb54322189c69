"""Rewards of completions: accuracy (+1) and format (+1), so r is 0, 1 or 2 (paper, section 3.3).

Any class with a ``name`` and ``__call__(completion, question, label)`` can be added by ``class_path``, annotated or
not; so can a plain function, by its import path, and a :class:`.batch_reward.BatchReward`.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from answers.answers import match_option
from datamodules.batching.batch import AudioQABatch
from lightning_modules.objectives.batch_reward import BatchReward
from lightning_modules.objectives.reward_checks import graded, graded_batch, wanted_facts
from records.reasoning_tags import exact_parts
from records.records import Question


class RewardFunction(Protocol):
    """What a reward function looks like.

    One that has a further parameter ``finished: bool`` is told there whether the completion came to its end, or was cut
    at the token limit; one with a parameter ``tokens: int`` how many tokens it has, the end token included; one with a
    parameter ``waveform: np.ndarray`` gets the clip as the student hears it, mono float32 at 16 kHz.
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


def compute_rewards(batch: AudioQABatch, functions: "Sequence[RewardFunction | BatchReward]") -> dict[str, Tensor]:
    """Grade all completions of a batch.

    Args:
        batch: Questions with completions and labels.
        functions: The reward functions; names must differ.

    Returns:
        For each function the rewards ``[B, G]``, in main memory.

    Raises:
        ValueError: The batch has no completions, or two functions share a name.
        RewardError: A function raised or did not return finite numbers.
    """
    if batch.completions is None:
        raise ValueError("the batch has no completions to grade")
    if len({function.name for function in functions}) < len(functions):
        raise ValueError(f"reward functions need names of their own, found {[f.name for f in functions]}")
    done = batch.completions
    rows = list(zip(done.texts, batch.questions, batch.labels, strict=True))
    found = {}
    for function in functions:
        if isinstance(function, BatchReward):
            found[function.name] = graded_batch(function, batch)
            continue
        facts = {fact: _fact(fact, batch) for fact in wanted_facts(function)}
        found[function.name] = torch.tensor(
            [
                [
                    graded(function, text, question, label, **{fact: known[b][g] for fact, known in facts.items()})
                    for g, text in enumerate(texts)
                ]
                for b, (texts, question, label) in enumerate(rows)
            ],
            dtype=torch.float32,
        )
    return found


def _fact(fact: str, batch: AudioQABatch) -> list[list[Any]]:
    """Return what is known of each completion ``[B][G]``."""
    done = batch.completions
    assert done is not None
    if fact == "waveform":
        return [[waveform] * len(texts) for waveform, texts in zip(batch.waveforms, done.texts, strict=True)]
    known: list[list[Any]] = (done.finished if fact == "finished" else done.lengths).tolist()
    return known
