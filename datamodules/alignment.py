"""Traces with verdicts and the sound of their clips: what the audio-text verifier is trained on and applied to."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from datamodules.audio_qa import Role
from datamodules.batching.heard_traces import AlignmentCollator, LabelledTraces, heard_traces
from datamodules.batching.items import Prepared
from datamodules.batching.loading import loader_settings, rank_of
from datamodules.trace_clips import TraceClipsDataModule, TraceClipsSettings
from datamodules.traces import thought
from records.changed_questions import without_changed
from records.record_files import listed, read_records
from records.records import Verdict
from runtime.errors import UserError
from runtime.settings import takes


@dataclass(frozen=True, kw_only=True)
class AlignmentSettings(TraceClipsSettings):
    """Traces with verdicts, beside what is said in :class:`.trace_clips.TraceClipsSettings`.

    Attributes:
        verdicts: The checker's verdicts on some of the traces: a file, a folder, or a list of files and folders; not
            needed for ``predict``.
        calibration: Verdicts that ``fit`` may use.
        held_out: Part of them that is kept for validation and for the temperature.
        verdicts_per_clip: How many of them may be about the same clip: many clips teach more than many traces.
        processor: Hub name or folder of the student's processor; null takes the one of the model.
    """

    verdicts: str | list[str] | None = None
    calibration: int = 300
    held_out: float = 0.2
    verdicts_per_clip: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.held_out < 1:
            raise UserError(f"data.held_out must be between 0 and 1, found {self.held_out}")


class AlignmentDataModule(TraceClipsDataModule):
    """Traces with a checker's verdicts for ``fit`` and ``test`` of the audio-text verifier, all traces for ``predict``.

    The clips are put in a fixed random order. The first ones, with ``calibration`` verdicts together, are for ``fit``;
    the last part of these is held out for validation and for the temperature. All further clips are for ``test``. No
    clip is in two parts. Every device is given all of them, since they are few and the temperature is of all that was
    held out; only ``predict`` is shared out.
    """

    settings: AlignmentSettings

    @takes(AlignmentSettings)
    def __init__(self, *root: Any, **settings: Any) -> None:
        """Describe the data, as :class:`AlignmentSettings` does; nothing is read before ``setup``."""
        self.describe(AlignmentSettings(*root, **settings))

    def split_of(self, role: Role) -> str | None:
        """Return the split that the traces are of, whatever the role."""
        return self.settings.predict_split

    @cached_property
    def parts(self) -> dict[str, list[LabelledTraces]]:
        """The items of training, validation and test.

        Raises:
            UserError: There are too few verdicts.
        """
        if not self.settings.verdicts:
            raise UserError("data.verdicts is not set: fit and test need the checker's verdicts on some traces")
        files = listed(self.settings.verdicts)
        known_verdicts, changed = without_changed(read_records(files, Verdict), self.questions("predict"))
        if changed:
            rank_zero_warn(
                f"{', '.join(files)}: {len(changed)} verdicts are on questions that have changed since "
                f"({changed[0].question_id} is the first) and are left out"
            )
        accepted = {(verdict.question_id, verdict.sample): verdict.accepted for verdict in known_verdicts}
        by_clip: dict[str, list[LabelledTraces]] = {}
        for question in self.questions("predict"):
            known = [
                t for t in self.traces.get(question.id, ()) if (t.question_id, t.sample) in accepted and thought(t)
            ]
            if known:
                verdicts = tuple(accepted[t.question_id, t.sample] for t in known)
                by_clip.setdefault(question.media, []).append(LabelledTraces(question, tuple(known), verdicts))
        parts = split_by_clip(
            by_clip,
            self.settings.calibration,
            self.settings.held_out,
            self.settings.verdicts_per_clip,
            self.settings.seed,
        )
        for name in ("train", "val"):
            found = {verdict for item in parts[name] for verdict in item.accepted}
            if len(found) < 2:
                raise UserError(
                    f"the verdicts for {name} are {'all the same' if found else 'none'}: the verifier needs "
                    "accepted and rejected traces, raise data.calibration or have more traces checked"
                )
        return parts

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
        rank_of(self.trainer)  # each has all of them
        items = self.parts[part]
        if not items:
            raise UserError(f"no verdicts remain for {part}: lower data.calibration, or have more traces checked")
        return DataLoader(
            Prepared(items, partial(heard_traces, clips=self.clips), keep=part != "test"),
            batch_size=self.settings.batch_size if shuffle else self.settings.evaluated_at_once,
            shuffle=shuffle,
            collate_fn=AlignmentCollator(self.collator),
        )

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return this rank's share of the traces that have no verdict on disk."""
        items = []
        for question in self.unchecked():
            left = self.unchecked_traces(question)
            items.append(LabelledTraces(question, left, (None,) * len(left)))
        return DataLoader(
            Prepared(items, partial(heard_traces, clips=self.clips)),
            batch_size=self.settings.evaluated_at_once,
            collate_fn=AlignmentCollator(self.collator),
            **loader_settings(self.settings.num_workers),
        )


def split_by_clip(
    by_clip: dict[str, list[LabelledTraces]], calibration: int, held_out: float, per_clip: int, seed: int
) -> dict[str, list[LabelledTraces]]:
    """Share clips out over training, validation and test.

    Args:
        by_clip: Items by their clip.
        calibration: Verdicts of training and validation together.
        held_out: Part of them that is for validation.
        per_clip: How many of them may be about the same clip.
        seed: Decides which clips come first, and which verdicts on a clip are used.
    """
    parts: dict[str, list[LabelledTraces]] = {"train": [], "val": [], "test": []}
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
