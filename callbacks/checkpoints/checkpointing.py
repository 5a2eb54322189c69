"""Checkpoints that are whole or absent, the best and the last, at the moments from which a run can go on unchanged."""

import contextlib
import pickle
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from callbacks.checkpoints.whole_checkpoint import WholeCheckpoint
from lightning_modules.models.checkpoints.sharded_checkpoint import (
    CheckpointError,
    ShardedCheckpoint,
    is_sharded_checkpoint,
)
from runtime.errors import UserError
from runtime.lightning_internals import gradients_wait, set_received_sigterm, validates_next
from runtime.whole_file import remove_partial, whole_file
from runtime.whole_folder import partial_of, replace_folder

WRITTEN_BY = "written_by"
"""Key of a checkpoint under which the module's class is kept."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name in the same folder and renames it when it is on the disk.

    A process killed while it writes leaves the previous checkpoint as it was; what it had written of the new one is
    removed when the run goes on. (Lightning writes to the system's
    temporary folder and moves, which copies when that is another file system.) Reading accepts tensors and plain values
    only, never arbitrary pickled objects, also of a checkpoint of many files, which sharded ranks have written.

    Args:
        moments: Whether what is read is gone on from: of many files those with the optimizer's moments are left out
            otherwise.
    """

    def __init__(self, moments: bool = True) -> None:
        super().__init__()
        self.moments = moments

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        beside = partial_of(target) if target.is_dir() else target
        try:
            with whole_file(beside, lasting=True) as partial, open(partial, "wb") as file:
                torch.save(checkpoint, file)
            if beside != target:
                replace_folder(beside, target)  # of a run whose checkpoints were of many files
        except BaseException as error:
            if (problem := _of_the_disk(error)) is not None:
                raise CheckpointError(
                    f"checkpoint {target} cannot be written ({problem}): make room for "
                    f"{_gigabytes(checkpoint):.1f} GB or set the callbacks' dirpath to another disk; what was written "
                    "before is as it was, --ckpt_path last goes on from it"
                ) from error
            raise

    @override
    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        if is_sharded_checkpoint(path):
            return ShardedCheckpoint(Path(path)).whole(self.moments)
        if Path(path).is_dir():
            raise CheckpointError(
                f"{path} is a folder, but no checkpoint of many files: give that of a run (.../checkpoints/last.ckpt), "
                "or exported weights as --model.init_args.weights DIR"
            )
        try:
            return super().load_checkpoint(path, map_location, True if weights_only is None else weights_only)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"checkpoint {path} cannot be read ({(str(error) or 'it is empty').splitlines()[0][:200]}): "
                "it is torn, of another program, or holds more than tensors and plain values; remove it to start afresh"
            ) from error


class BestCheckpoint(WholeCheckpoint):
    """Keeps the checkpoints of the best validations.

    Args:
        dirpath: Folder; ``checkpoints`` below ``trainer.default_root_dir`` unless given, whatever the logger.
        monitor: The metric that decides.
        mode: Whether the highest (``max``) or the lowest (``min``) is the best.
        save_top_k: How many to keep; -1 keeps all.
        asynchronous: Write those of sharded weights while training goes on, from a copy in main memory; by default on
            GPUs.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        monitor: str = "val/accuracy",
        mode: Literal["max", "min"] = "max",
        save_top_k: int = 1,
        asynchronous: bool | None = None,
    ) -> None:
        super().__init__(
            asynchronous=asynchronous,
            dirpath=dirpath,
            filename="best-{step}",
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_last=False,
            every_n_epochs=1,
            save_on_train_epoch_end=False,
            enable_version_counter=False,  # a resumed run writes the same names again
        )

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = self.dirpath or str(Path(trainer.default_root_dir).resolve() / "checkpoints")
        if stage == "fit":
            remove_torn(trainer, Path(self.dirpath))
            if isinstance(trainer.val_check_interval, int):
                warn_of_unfinished_steps(trainer, trainer.val_check_interval)
        super().setup(trainer, pl_module, stage)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[WRITTEN_BY] = class_path(pl_module)


class LastCheckpoint(WholeCheckpoint):
    """Keeps ``last.ckpt``, from which ``fit --ckpt_path last`` goes on as if it had not been interrupted.

    It is written every so many training batches and at the end of training, whether or not anything has been validated,
    with automatic and manual optimization alike. Where a validation follows the batch, it is written after the
    validation: Lightning does not repeat a validation that was interrupted after a checkpoint. Where gradients are
    accumulated it waits for the optimizer step, and so does a stop (``max_time``, early stopping,
    SIGTERM): a checkpoint has no gradients, and those gathered so far would be missing in the resumed run.

    Args:
        every_n_batches: Training batches (of GRPO: rollout batches) between two writes.
        dirpath: Folder; ``checkpoints`` below ``trainer.default_root_dir`` unless given, whatever the logger.
        asynchronous: Write those of sharded weights while training goes on, from a copy in main memory; by default on
            GPUs. The last one of a run is waited for.
    """

    def __init__(self, every_n_batches: int = 50, dirpath: str | None = None, asynchronous: bool | None = None) -> None:
        if every_n_batches < 1:
            raise UserError(f"every_n_batches is {every_n_batches}: at least 1 is needed")
        super().__init__(
            dirpath=dirpath, save_top_k=0, save_last=True, enable_version_counter=False, asynchronous=asynchronous
        )
        self.every_n_batches = every_n_batches
        self._due = False
        self._stops = False
        self._sigterm = False

    @property
    @override
    def state_key(self) -> str:
        return type(self).__qualname__

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = self.dirpath or str(Path(trainer.default_root_dir).resolve() / "checkpoints")
        if stage == "fit":
            remove_torn(trainer, Path(self.dirpath))
        super().setup(trainer, pl_module, stage)

    @override
    def _find_last_checkpoints(self, trainer: Trainer) -> set[str]:
        """Find ``last.ckpt`` where :meth:`setup` puts it; Lightning asks before that."""
        path = Path(self.dirpath or Path(trainer.default_root_dir).resolve() / "checkpoints") / "last.ckpt"
        old = path.with_name(f".{path.name}.old")
        if not path.exists() and old.exists():
            with contextlib.suppress(OSError):  # another rank was quicker
                old.rename(path)  # killed between the two renames of a file system that cannot swap folders
        return {str(path)} if path.exists() else set()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loop: Any = trainer.fit_loop
        batches = loop.epoch_loop.total_batch_idx + 1
        if gradients_wait(trainer):
            self._put_off_stops(trainer)
            self._due |= batches % self.every_n_batches == 0
            return
        self._stop_as_asked(trainer)
        self._due = self._due or not self.goes_on(trainer) or batches % self.every_n_batches == 0
        if validates_next(trainer):
            # Lightning breaks a validation off once SIGTERM has come, and it is written after the validation
            self._sigterm |= trainer.received_sigterm
            set_received_sigterm(trainer, False)
        elif self._due:
            self._write(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if gradients_wait(trainer):
            self._put_off_stops(trainer)
            return
        self._stop_as_asked(trainer)
        if self._due or trainer.should_stop:
            self._write(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing: batches decide."""

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing: by now Lightning counts an unfinished epoch as done, and a longer run could not go on from it."""

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[WRITTEN_BY] = class_path(pl_module)

    @override
    def goes_on(self, trainer: Trainer) -> bool:
        last_batch = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        return (
            super().goes_on(trainer)
            and not (trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps)
            and not (last_batch and trainer.current_epoch + 1 == trainer.max_epochs)
        )

    def _put_off_stops(self, trainer: Trainer) -> None:
        """Let training go on to the optimizer step although it has been asked to stop."""
        self._stops |= trainer.should_stop
        self._sigterm |= trainer.received_sigterm
        trainer.should_stop = False
        set_received_sigterm(trainer, False)

    def _stop_as_asked(self, trainer: Trainer) -> None:
        """Stop where it was put off."""
        trainer.should_stop |= self._stops
        set_received_sigterm(trainer, trainer.received_sigterm or self._sigterm)
        self._stops = self._sigterm = False

    def _write(self, trainer: Trainer) -> None:
        self._due = False
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


def remove_torn(trainer: Trainer, folder: Path) -> None:
    """Remove what a process that was killed had written of a checkpoint of one file (folders: WholeCheckpoint).

    Args:
        trainer: The trainer; its first rank does it.
        folder: Where checkpoints are.
    """
    if trainer.is_global_zero:
        remove_partial(folder, "*.ckpt*")


def warn_of_unfinished_steps(trainer: Trainer, interval: int) -> None:
    """Say where the best checkpoints cannot be gone on from exactly.

    Args:
        trainer: The trainer.
        interval: Batches between two validations.
    """
    gathered = trainer.accumulate_grad_batches
    if interval % gathered:
        rank_zero_warn(
            f"trainer.val_check_interval {interval} is no multiple of trainer.accumulate_grad_batches {gathered}: some "
            "validations, and best checkpoints with them, come before an optimizer step; from last.ckpt a run goes on "
            "exactly, from such a best one without the gradients gathered so far"
        )


def _of_the_disk(error: BaseException) -> str | None:
    """Return what the system said where writing failed, also below torch's own complaint about it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen.strerror or str(seen)
        seen = seen.__cause__ or seen.__context__
    return None


def _gigabytes(checkpoint: Any) -> float:
    tensors = [leaf for leaf in tree_leaves(checkpoint) if isinstance(leaf, torch.Tensor)]
    return sum(tensor.nbytes for tensor in tensors) / 1e9


def class_path(instance: object) -> str:
    """Return the import path of an object's class.

    Args:
        instance: The object.
    """
    return f"{type(instance).__module__}.{type(instance).__qualname__}"
