"""Checkpoints that are whole or absent."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from typing_extensions import override

from datamodules.records import UserError


class CheckpointError(UserError):
    """A checkpoint cannot be read."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name in the same folder and renames it when it is on the disk.

    A process killed while it writes leaves the previous checkpoint as it was. (Lightning writes to the system's
    temporary folder and moves, which copies when that is another file system.) Reading accepts tensors and plain values
    only, never arbitrary pickled objects.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        with open(partial, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
        sync_folder(target.parent)

    @override
    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        try:
            return super().load_checkpoint(path, map_location, True if weights_only is None else weights_only)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"checkpoint {path} cannot be read ({str(error).splitlines()[0][:200]}): "
                "it is torn, of another program, or holds more than tensors and plain values; remove it to start afresh"
            ) from error


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut.

    Args:
        folder: The folder.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
