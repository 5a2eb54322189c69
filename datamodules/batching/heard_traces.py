"""Traces with verdicts and the sound of their clips, in batches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.batching.collate import Collator
from datamodules.media.audio import ClipFolder, MediaError
from records.records import Question, Trace


@dataclass(frozen=True)
class LabelledTraces:
    """The traces of one question, what was said of them, and the sound of its clip.

    Attributes:
        question: The question.
        traces: Its traces.
        accepted: The verdict on each; None where there is none.
        waveform: The clip, mono float32 at 16 kHz; None where it cannot be decoded.
        error: Why not, or None.
    """

    question: Question
    traces: tuple[Trace, ...]
    accepted: tuple[bool | None, ...]
    waveform: np.ndarray | None = None
    error: str | None = None


@dataclass
class AlignmentBatch:
    """Traces and the clips that they are about. Letters: K clips, B traces, M mel bins, F frames, T tokens.

    Attributes:
        questions: The question of each clip.
        traces: The traces.
        features: Log-mel features ``[K, M, F]``.
        feature_lengths: Heard frames, in main memory ``[K]``.
        clip_index: Which clip a trace is about ``[B]``.
        ids: Tokens of the traces ``[B, T]``, padded with 0.
        mask: True where there is a token ``[B, T]``.
        labels: 1 for accepted, 0 for rejected, NaN where there is no verdict ``[B]``.
        errors: Questions whose clip cannot be decoded, with the reason.
    """

    questions: list[Question]
    traces: list[Trace]
    features: Tensor
    feature_lengths: np.ndarray
    clip_index: Tensor
    ids: Tensor
    mask: Tensor
    labels: Tensor
    errors: list[tuple[Question, str]]

    def to(self, device: Any, non_blocking: bool = False) -> "AlignmentBatch":
        """Return the batch on a device."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            features=moved(self.features),
            clip_index=moved(self.clip_index),
            ids=moved(self.ids),
            mask=moved(self.mask),
            labels=moved(self.labels),
        )


class AlignmentCollator:
    """Makes batches of heard traces."""

    def __init__(self, collator: Collator) -> None:
        """Prepare.

        Args:
            collator: The student's, for features and tokens.
        """
        self.collator = collator

    def __call__(self, items: Sequence[LabelledTraces]) -> AlignmentBatch:
        """Return items as a batch."""
        heard = [item for item in items if item.waveform is not None]
        waveforms = [item.waveform[: self.collator.max_samples] for item in heard if item.waveform is not None]
        silence = torch.zeros(0, 0, 0), np.zeros(0, np.int64)
        features, lengths = self.collator.features(waveforms) if waveforms else silence
        tokenizer = self.collator.processor.tokenizer
        rows, clip_index, labels = [], [], []
        for place, item in enumerate(heard):
            for trace, accepted in zip(item.traces, item.accepted, strict=True):
                rows.append(tokenizer(said(trace), add_special_tokens=False)["input_ids"] or [0])
                clip_index.append(place)
                labels.append(float("nan") if accepted is None else float(accepted))
        ids = torch.zeros(len(rows), max((len(row) for row in rows), default=0), dtype=torch.long)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = True
        return AlignmentBatch(
            questions=[item.question for item in heard],
            traces=[trace for item in heard for trace in item.traces],
            features=features,
            feature_lengths=lengths,
            clip_index=torch.tensor(clip_index, dtype=torch.long),
            ids=ids,
            mask=mask,
            labels=torch.tensor(labels, dtype=torch.float32),
            errors=[(item.question, item.error) for item in items if item.error is not None],
        )


def said(trace: Trace) -> str:
    """Return what a trace says, its answer included."""
    return f"{trace.reasoning.strip()} Answer: {trace.answer}"


def heard_traces(item: LabelledTraces, clips: ClipFolder) -> LabelledTraces:
    """Return an item with its clip, or with the reason why there is none.

    Args:
        item: The item, without a waveform.
        clips: Where its clip is.
    """
    try:
        return replace(item, waveform=clips.load(item.question.media))
    except MediaError as error:
        return replace(item, error=str(error))
