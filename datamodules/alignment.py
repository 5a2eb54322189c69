"""Traces with verdicts and the sound of their clips: what the audio-text verifier is trained on and applied to."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.audio_qa import Role
from datamodules.batching.collate import Collator
from datamodules.media.audio import ClipFolder, MediaError
from datamodules.trace_clips import TraceClipsDataModule
from records.record_files import record_files
from records.records import Question, Trace, Verdict, read_jsonl
from runtime.errors import UserError


@dataclass(frozen=True)
class HeardTraces:
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
        clip_of: Which clip a trace is about ``[B]``.
        ids: Tokens of the traces ``[B, T]``, padded with 0.
        mask: True where there is a token ``[B, T]``.
        labels: 1 for accepted, 0 for rejected, NaN where there is no verdict ``[B]``.
        errors: Questions whose clip cannot be decoded, with the reason.
    """

    questions: list[Question]
    traces: list[Trace]
    features: Tensor
    feature_lengths: np.ndarray
    clip_of: Tensor
    ids: Tensor
    mask: Tensor
    labels: Tensor
    errors: list[tuple[Question, str]]

    def to(self, device: Any, non_blocking: bool = False) -> "AlignmentBatch":
        """Return the batch on a device."""
        names = ("features", "clip_of", "ids", "mask", "labels")
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in names}
        return replace(self, **moved)


class AlignmentCollator:
    """Makes batches of heard traces."""

    def __init__(self, collator: Collator) -> None:
        """Prepare.

        Args:
            collator: The student's, for features and tokens.
        """
        self.collator = collator

    def __call__(self, items: Sequence[HeardTraces]) -> AlignmentBatch:
        """Return items as a batch."""
        heard = [item for item in items if item.waveform is not None]
        waveforms = [item.waveform[: self.collator.max_samples] for item in heard if item.waveform is not None]
        silence = torch.zeros(0, 0, 0), np.zeros(0, np.int64)
        features, lengths = self.collator.features(waveforms) if waveforms else silence
        tokenizer = self.collator.processor.tokenizer
        rows, clip_of, labels = [], [], []
        for place, item in enumerate(heard):
            for trace, accepted in zip(item.traces, item.accepted, strict=True):
                rows.append(tokenizer(said(trace), add_special_tokens=False)["input_ids"] or [0])
                clip_of.append(place)
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
            clip_of=torch.tensor(clip_of, dtype=torch.long),
            ids=ids,
            mask=mask,
            labels=torch.tensor(labels, dtype=torch.float32),
            errors=[(item.question, item.error) for item in items if item.error is not None],
        )


def said(trace: Trace) -> str:
    """Return what a trace says, its answer included."""
    return f"{trace.reasoning.strip()} Answer: {trace.answer}"


class HeardTracesDataset(Dataset[HeardTraces]):
    """Items whose clips are decoded when they are asked for, and kept where there are few."""

    def __init__(self, items: list[HeardTraces], clips: ClipFolder, keep: bool) -> None:
        """Make the dataset.

        Args:
            items: The items, without waveforms.
            clips: Where their clips are.
            keep: Keep decoded clips in memory.
        """
        self.items = items
        self.clips = clips
        self.keep = keep

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    def __getitem__(self, index: int) -> HeardTraces:
        """Return an item with its clip, or with the reason why there is none."""
        item = self.items[index]
        if item.waveform is None and item.error is None:
            try:
                item = replace(item, waveform=self.clips.load(item.question.media))
            except MediaError as error:
                item = replace(item, error=str(error))
            if self.keep:
                self.items[index] = item
        return item


class AlignmentDataModule(TraceClipsDataModule):
    """Traces with a checker's verdicts for ``fit`` and ``test`` of the audio-text verifier, all traces for ``predict``.

    The clips are put in a fixed random order. The first ones, with ``calibration`` verdicts together, are for ``fit``;
    the last part of these is held out for validation and for the temperature. All further clips are for ``test``. No
    clip is in two parts. Every device is given all of them, since they are few and the temperature is of all that was
    held out; only ``predict`` is shared out.
    """

    def __init__(
        self,
        root: str,
        traces: str | list[str],
        verdicts: str | list[str] | None = None,
        calibration: int = 300,
        held_out: float = 0.2,
        verdicts_per_clip: int = 1,
        **settings: Any,
    ) -> None:
        """Describe the data; nothing is read before ``setup``.

        Args:
            root: Folder with AVQA as downloaded.
            traces: A file of traces, a folder of such files, or a list of files and folders.
            verdicts: The checker's verdicts on some of them, in the same ways; not needed for ``predict``.
            calibration: Verdicts that ``fit`` may use.
            held_out: Part of them that is kept for validation and for the temperature.
            verdicts_per_clip: How many of them may be about the same clip: many clips teach more than many traces.
            **settings: As for TraceClipsDataModule; ``processor`` is the student's.
        """
        if not 0 < held_out < 1:
            raise UserError(f"data.held_out must be between 0 and 1, found {held_out}")
        super().__init__(root=root, traces=traces, **settings)
        self.verdict_files = [verdicts] if isinstance(verdicts, str) else list(verdicts or ())
        self.calibration = calibration
        self.held_out = held_out
        self.verdicts_per_clip = verdicts_per_clip
        self._parts: dict[str, list[HeardTraces]] | None = None

    def split_of(self, role: Role) -> str | None:
        """Return the split that the traces are of, whatever the role."""
        return self.predict_split

    def parts(self) -> dict[str, list[HeardTraces]]:
        """Return the items of training, validation and test.

        Raises:
            UserError: There are too few verdicts.
        """
        if self._parts is None:
            if not self.verdict_files:
                raise UserError("data.verdicts is not set: fit and test need the checker's verdicts on some traces")
            accepted = {
                (verdict.question_id, verdict.sample): verdict.accepted
                for file in record_files(self.verdict_files)
                for verdict in read_jsonl(file, Verdict)
            }
            by_clip: dict[str, list[HeardTraces]] = {}
            for question in self.questions("predict"):
                known = [t for t in self.traces.get(question.id, ()) if (t.question_id, t.sample) in accepted]
                if known:
                    verdicts = tuple(accepted[t.question_id, t.sample] for t in known)
                    by_clip.setdefault(question.media, []).append(HeardTraces(question, tuple(known), verdicts))
            self._parts = split_by_clip(by_clip, self.calibration, self.held_out, self.verdicts_per_clip, self.seed)
            for name in ("train", "val"):
                found = {verdict for item in self._parts[name] for verdict in item.accepted}
                if len(found) < 2:
                    raise UserError(
                        f"the verdicts for {name} are {'all the same' if found else 'none'}: the verifier needs "
                        "accepted and rejected traces, raise data.calibration or have more traces checked"
                    )
        return self._parts

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of training, in another order each epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the verdicts that are held out of training."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the verdicts on all other clips."""
        return self._loader("test")

    def _loader(self, part: str, shuffle: bool = False) -> DataLoader[Any]:
        self._check_distributed()
        items = self.parts()[part]
        if not items:
            raise UserError(f"no verdicts remain for {part}: lower data.calibration, or have more traces checked")
        return DataLoader(
            HeardTracesDataset(list(items), self.clips, keep=part != "test"),
            batch_size=self.batch_size if shuffle else self.eval_batch_size,
            shuffle=shuffle,
            collate_fn=AlignmentCollator(self.collator),
        )

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return this rank's share of the traces that have no verdict on disk."""
        items = []
        for question in self.unchecked():
            left = self.unchecked_traces(question)
            items.append(HeardTraces(question, left, (None,) * len(left)))
        return DataLoader(
            HeardTracesDataset(items, self.clips, keep=False),
            batch_size=self.eval_batch_size,
            collate_fn=AlignmentCollator(self.collator),
            **self._loader_settings(),
        )

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Move a batch to the module's device."""
        return batch.to(device)


def split_by_clip(
    by_clip: dict[str, list[HeardTraces]], calibration: int, held_out: float, per_clip: int, seed: int
) -> dict[str, list[HeardTraces]]:
    """Share clips out over training, validation and test.

    Args:
        by_clip: Items by their clip.
        calibration: Verdicts of training and validation together.
        held_out: Part of them that is for validation.
        per_clip: How many of them may be about the same clip.
        seed: Decides which clips come first, and which verdicts on a clip are used.
    """
    parts: dict[str, list[HeardTraces]] = {"train": [], "val": [], "test": []}
    used = 0
    for clip in sorted(by_clip, key=lambda clip: _rank(seed, clip)):
        if used >= calibration:
            parts["test"].extend(by_clip[clip])
            continue
        part = "train" if used < (1 - held_out) * calibration else "val"
        pairs = [(item, place) for item in by_clip[clip] for place in range(len(item.traces))]
        pairs.sort(key=lambda pair: _rank(seed, f"{pair[0].question.id}/{pair[0].traces[pair[1]].sample}"))
        for item, place in pairs[: min(per_clip, calibration - used)]:
            parts[part].append(replace(item, traces=(item.traces[place],), accepted=(item.accepted[place],)))
            used += 1
    return parts


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
