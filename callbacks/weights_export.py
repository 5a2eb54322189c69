"""The best weights as a Hugging Face directory, for the next stage."""

import ctypes
import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from callbacks.checkpointing import sync_folder
from datamodules.records import UserError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class WeightsExport(Callback):
    """Exports the student whenever a validation is the best so far.

    The directory is what ``weights`` of the next stage and a vLLM server read; it is complete at any time, and
    ``training.json`` in it says which step and score it holds. A run without any validation exports its last weights.

    Args:
        directory: Where to; ``best`` below ``trainer.default_root_dir`` unless given.
        monitor: The metric that decides.
        mode: Whether the highest (``max``) or the lowest (``min``) is the best.
    """

    def __init__(
        self, directory: str | None = None, monitor: str = "val/accuracy", mode: Literal["max", "min"] = "max"
    ) -> None:
        self.directory = directory
        self.monitor = monitor
        self.mode = mode
        self.best: float | None = None
        self.best_step: int | None = None

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]

    def target(self, trainer: Trainer) -> Path:
        """Return the directory of the exported weights.

        Args:
            trainer: The trainer.
        """
        return Path(self.directory) if self.directory else Path(trainer.default_root_dir) / "best"

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        fitting = trainer.state.fn == TrainerFn.FITTING
        if trainer.sanity_checking or not fitting or getattr(trainer, "fast_dev_run", False):
            return
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise UserError(
                f"validation did not log {self.monitor!r}, by which weights are exported; it logged: {known}"
            )
        score = float(value)
        sign = 1 if self.mode == "max" else -1
        if self.best is None or sign * score > sign * self.best:
            self.best, self.best_step = score, trainer.global_step
            self._export(trainer, pl_module)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if getattr(trainer, "fast_dev_run", False):
            return
        if self.best is None:
            rank_zero_warn(f"{self.monitor} was never measured: the last weights are exported, not the best ones")
            self._export(trainer, pl_module)
        elif trainer.is_global_zero and not self.target(trainer).is_dir():
            raise UserError(f"{self.target(trainer)}, the export of step {self.best_step}, was removed during the run")

    def _export(self, trainer: Trainer, pl_module: Any) -> None:
        target = self.target(trainer)
        fresh = target.with_name(target.name + ".partial")
        if trainer.is_global_zero:
            shutil.rmtree(fresh, ignore_errors=True)
        if trainer.is_global_zero or pl_module.student.sharded:
            pl_module.student.save_hub(fresh)
        if trainer.is_global_zero:
            notes = {"module": type(pl_module).__qualname__, "step": trainer.global_step, self.monitor: self.best}
            (fresh / "training.json").write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
            replace_folder(fresh, target)
            rank_zero_info(f"step {trainer.global_step}: weights with {self.monitor} {self.best} exported to {target}")
        trainer.strategy.barrier("weights_export")


def replace_folder(fresh: Path, target: Path) -> None:
    """Put a folder in the place of another one; ``target`` is never absent or half there where the system can swap.

    Args:
        fresh: The new folder, which is gone afterwards.
        target: The place.
    """
    for file in fresh.rglob("*"):
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
    if not target.exists():
        os.rename(fresh, target)
    elif _exchange(fresh, target):
        shutil.rmtree(fresh)
    else:
        old = target.with_name(target.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(target, old)
        os.rename(fresh, target)
        shutil.rmtree(old)
    sync_folder(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
