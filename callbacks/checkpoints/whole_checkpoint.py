"""Checkpoints of sharded weights, a folder with a part of each rank: complete or absent like those of one file."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.distributed.checkpoint.api import CheckpointException
from typing_extensions import override

from runtime.errors import UserError
from runtime.lightning_internals import checkpoints_are_folders
from runtime.whole_folder import partial_of, recover_folder, replace_folder

PLAIN_VALUES = "meta.pt"
"""File of such a folder in which Lightning keeps all that is neither weight nor moment."""


class WholeCheckpoint(ModelCheckpoint):
    """Writes a checkpoint of many files beside its place and puts it there when all ranks have written theirs.

    Where ``ModelParallelStrategy`` has ``save_distributed_checkpoint``, each rank writes and reads its own part of
    weights and moments, and no rank ever holds the whole. A checkpoint of one file is left to the checkpoint's IO.
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Clear up after a run that was killed while it wrote."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.is_global_zero and self.dirpath is not None:
            for left in [*Path(self.dirpath).glob(".*.ckpt.partial"), *Path(self.dirpath).glob(".*.ckpt.old")]:
                recover_folder(left.with_name(left.stem.removeprefix(".")))

    @override
    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        if not checkpoints_are_folders(trainer):
            super()._save_checkpoint(trainer, filepath)
            return
        target = Path(filepath)
        problem: UserError | None = None
        if trainer.is_global_zero:
            recover_folder(target)
        trainer.strategy.barrier("whole_checkpoint")
        try:
            trainer.save_checkpoint(partial_of(target), self.save_weights_only)
        except CheckpointException as error:  # raised on all ranks when one of them could not write
            raise UserError(
                f"checkpoint {target} cannot be written ({str(error).strip().splitlines()[-1]}): make room there or "
                "set the callbacks' dirpath to another disk; what was written before is as it was"
            ) from error
        trainer.strategy.barrier("whole_checkpoint")
        if trainer.is_global_zero:
            try:
                if target.is_file():
                    target.unlink()  # of a run whose checkpoints were of one file
                replace_folder(partial_of(target), target)
            except OSError as error:
                problem = UserError(f"checkpoint {target} cannot be put in its place ({error.strerror or error})")
        problem = trainer.strategy.broadcast(problem)
        if problem is not None:
            raise problem
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
