"""Parts of a batch that fit into memory one after another."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from datamodules.batching.batch import AudioQABatch


class Part(NamedTuple):
    """Which questions, and which completions of each, a part of a batch has.

    Attributes:
        questions: Rows of the batch.
        completions: Columns of its completions.
    """

    questions: slice
    completions: slice


def parts(counts: Sequence[int], size: int) -> list[Part]:
    """Share completions out over parts: questions stay whole where they can, so that each prompt is computed once.

    Args:
        counts: Completions of each question, the padding of shorter groups left out.
        size: Completions of a part at most.

    Returns:
        Parts that hold each completion once, in the order of the questions.
    """
    shared: list[Part] = []
    begin, held = 0, 0
    for row, count in enumerate(counts):
        if held and held + count > size:
            shared.append(Part(slice(begin, row), slice(0, max(counts[begin:row]))))
            begin, held = row, 0
        if count > size:
            shared += [Part(slice(row, row + 1), slice(at, min(at + size, count))) for at in range(0, count, size)]
            begin, held = row + 1, 0
        else:
            held += count
    if held:
        shared.append(Part(slice(begin, len(counts)), slice(0, max(counts[begin:]))))
    return shared


def micro_batches(batch: AudioQABatch, size: int | None) -> list[AudioQABatch]:
    """Return a batch in parts of so many completions at most; their completions together are the batch's.

    Args:
        batch: Questions with completions, padding behind them ``[B, G, C]``.
        size: Completions of a part at most; None for the whole batch in one.
    """
    done = batch.completions
    if size is None or done is None:
        return [batch]
    counts = ((done.lengths > 0) * np.arange(1, done.lengths.shape[1] + 1)).max(-1).tolist()
    found = []
    for part in parts(counts, size):
        some = batch[part.questions]
        assert some.completions is not None
        lengths = some.completions.lengths[:, part.completions]
        length = int(lengths.max())
        rest: dict[str, Any] = {
            "ids": some.completions.ids[:, part.completions, :length],
            "mask": some.completions.mask[:, part.completions, :length],
            "lengths": lengths,
            "texts": [texts[part.completions] for texts in some.completions.texts],
            "finished": some.completions.finished[:, part.completions],
        }
        if some.completions.logprobs is not None:
            rest["logprobs"] = some.completions.logprobs[:, part.completions, :length]
        found.append(dataclasses.replace(some, completions=dataclasses.replace(some.completions, **rest)))
    return found
