"""Checkpoints of sharded weights, a folder with a part of each rank: complete or absent like those of one file."""

import contextlib
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override

from callbacks.checkpoints.sharded_strategy import ShardedStrategy
from runtime.errors import UserError
from runtime.lightning_internals import checkpoints_are_folders, dump_checkpoint
from runtime.whole_folder import partial_of, recover_folder, remove_path

SECONDS_TO_END = 45.0
"""Seconds in which a checkpoint that is being written when the run fails may still come to its end."""


class WholeCheckpoint(ModelCheckpoint):
    """Writes a checkpoint of many files beside its place and puts it there when all ranks have written theirs.

    Where ``ModelParallelStrategy`` has ``save_distributed_checkpoint``, each rank writes and reads its own part of
    weights and moments, and no rank ever holds the whole. A checkpoint of one file is left to the checkpoint's IO.
    """

    def __init__(self, asynchronous: bool | None = None, **settings: Any) -> None:
        """Begin without a checkpoint.

        Args:
            asynchronous: Write checkpoints of many files while training goes on, from a copy in main memory; by default
                where the weights are on GPUs.
            **settings: Those of Lightning's callback.
        """
        super().__init__(**settings)
        self.asynchronous = asynchronous

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Clear up after a run that was killed while it wrote."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if checkpoints_are_folders(trainer) and _of_folders(trainer) is None:
            raise UserError(
                "checkpoints of many files are written by ShardedStrategy of callbacks.checkpoints.sharded_strategy, "
                "which train.py takes for ModelParallelStrategy: give it to the Trainer"
            )
        if trainer.is_global_zero and self.dirpath is not None:
            for left in [*Path(self.dirpath).glob(".*.ckpt.partial"), *Path(self.dirpath).glob(".*.ckpt.old")]:
                recover_folder(left.with_name(left.stem.removeprefix(".")))

    def finish(self, trainer: Trainer, seconds: float | None = None) -> None:
        """Wait until what is being written is in its place.

        Args:
            trainer: The trainer.
            seconds: Not longer than this.

        Raises:
            CheckpointError: It could not be written.
            TimeoutError: It takes longer.
        """
        if (strategy := _of_folders(trainer)) is not None:
            strategy.writer.wait(seconds)

    def goes_on(self, trainer: Trainer) -> bool:
        """Return whether training goes on behind the checkpoint that is about to be written.

        Args:
            trainer: The trainer.
        """
        return not (trainer.should_stop or trainer.received_sigterm)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.finish(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        with contextlib.suppress(Exception):  # the run's own error goes on; what could not be written has been said
            self.finish(trainer, SECONDS_TO_END)

    @override
    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        if (strategy := _of_folders(trainer)) is None:
            super()._save_checkpoint(trainer, filepath)
            return
        background = strategy.root_device.type == "cuda" if self.asynchronous is None else self.asynchronous
        checkpoint = dump_checkpoint(trainer, self.save_weights_only)
        strategy.save(checkpoint, Path(filepath), background and self.goes_on(trainer))
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath

    @override
    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Remove a checkpoint when the one that takes its place is there; a folder never is there in part."""
        if not trainer.is_global_zero:
            return
        if (strategy := _of_folders(trainer)) is not None:
            strategy.writer.when_written(lambda: _remove(Path(filepath)))
        elif Path(filepath).is_dir():
            _remove(Path(filepath))
        else:
            super()._remove_checkpoint(trainer, filepath)


def _of_folders(trainer: Trainer) -> ShardedStrategy | None:
    """Return the strategy that writes checkpoints of many files, where there is one and they are wanted."""
    strategy = trainer.strategy
    return strategy if checkpoints_are_folders(trainer) and isinstance(strategy, ShardedStrategy) else None


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, partial_of(path))  # by this name it is cleared up if the process ends now
    remove_path(partial_of(path))
