"""Audio embeddings on disk: with a frozen audio tower each clip is encoded once, not in every epoch."""

import dataclasses
import hashlib
from pathlib import Path
from typing import cast

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from datamodules.batching.batch import AudioQABatch
from lightning_modules.models.student import Student
from lightning_modules.models.trained_parts import trained_parts
from runtime.errors import UserError
from runtime.whole_file import remove_partial, whole_file

_ABANDONED = 3600.0
"""A file that is being written is seconds old."""


class AudioCache(Callback):
    """Keeps the embeddings of training clips in files, by the weights that made them and the clip's samples.

    SFT takes a tenth less time from the second epoch on (``sft cached`` of ``python -m benchmarks.learner``).
    Needs an audio tower that is not trained (``lora``, or ``freeze_audio_tower``). Several runs and ranks may share the
    folder; it is never emptied.
    """

    def __init__(self, directory: str) -> None:
        """Describe the cache.

        Args:
            directory: Folder of the embeddings; 10 s of audio take 4 MB for Qwen2-Audio-7B in float32, 2 in bfloat16.
        """
        super().__init__()
        self.directory = Path(directory)
        self._folder: Path | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the folder that belongs to the weights.

        Raises:
            UserError: The audio tower is trained, or its weights are spread over ranks.
        """
        student = cast(Student, pl_module.student)
        if not student.audio_tower_frozen:
            counts = trained_parts(student).items()
            trained = ", ".join(name.replace("_", " ") for name, n in counts if n and "language_model" not in name)
            raise UserError(
                f"AudioCache needs audio embeddings that do not change, and weights of the audio path are trained "
                f"({trained}): set model.freeze_audio_tower to true, or leave the callback out"
            )
        if student.sharded:
            raise UserError("AudioCache does not work with weights that are spread over ranks: leave the callback out")
        self._folder = self.directory / fingerprint(student, str(trainer.precision))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_partial(self._folder, "*/*", seconds=_ABANDONED)
        except OSError as error:
            raise UserError(
                f"AudioCache cannot write to {self.directory} ({error.strerror}): set another folder"
            ) from None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: AudioQABatch, batch_idx: int
    ) -> None:
        """Put the embeddings into the batch; those that are missing are made and kept."""
        student = cast(Student, pl_module.student)
        files = [self._file(waveform) for waveform in batch.waveforms]
        counts = student.architecture.front_end.num_tokens(batch.feature_lengths).tolist()
        device = batch.features.device
        known = [_load(file, count) for file, count in zip(files, counts, strict=True)]
        missing = [row for row, clip in enumerate(known) if clip is None]
        if missing:
            lengths = batch.feature_lengths[missing]
            part = dataclasses.replace(batch, features=batch.features[missing], feature_lengths=lengths, audio=None)
            with trainer.precision_plugin.forward_context():
                made = student.encode_audio(part).split([counts[row] for row in missing])
            for row, clip in zip(missing, made, strict=True):
                known[row] = clip
                _save(files[row], clip)
        batch.audio = [clip.to(device) for clip in known if clip is not None]

    def _file(self, waveform: np.ndarray) -> Path:
        assert self._folder is not None
        name = hashlib.sha256(np.ascontiguousarray(waveform).tobytes()).hexdigest()
        return self._folder / name[:2] / f"{name}.safetensors"


def fingerprint(student: Student, precision: str) -> str:
    """Return a name for what a student hears with: weights of tower and projector, their type and the precision."""
    digest = hashlib.sha256(precision.encode())
    for part in student.audio_modules.values():
        for name, value in part.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _load(file: Path, tokens: int) -> Tensor | None:
    """Return what a file holds, or None where it is missing, damaged or of another length."""
    if not file.exists():
        return None
    try:
        clip = load_file(file)["audio"]
    except (SafetensorError, OSError, KeyError):
        return None
    return clip if len(clip) == tokens else None


def _save(file: Path, clip: Tensor) -> None:
    """Write a file that is complete or not there at all."""
    try:
        with whole_file(file) as partial:
            save_file({"audio": clip.detach().cpu().contiguous().clone()}, partial)
    except (OSError, SafetensorError) as error:
        raise UserError(f"AudioCache cannot write {file} ({error}): make room there or set another folder") from None
