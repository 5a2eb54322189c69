"""The best weights as a Hugging Face directory, for the next stage."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from callbacks.checkpoints.export_place import refuse_export_place
from records.best_score import BestScore, Mode
from runtime.all_ranks import of_rank_zero
from runtime.errors import UserError
from runtime.whole_folder import recover_folder


class WeightsExport(Callback):
    """Exports the student whenever a validation is the best so far.

    The directory is what ``weights`` of the next stage and a vLLM server read; it is complete at any time, and
    ``training.json`` in it says which step and score it holds. A run without any validation exports its last weights.

    Args:
        directory: Where to, a new folder or an earlier export; ``best`` below ``trainer.default_root_dir`` unless
            given.
        monitor: The metric that decides.
        mode: Whether the highest (``max``) or the lowest (``min``) is the best.
    """

    def __init__(self, directory: str | None = None, monitor: str = "val/accuracy", mode: Mode = "max") -> None:
        self.directory = directory
        self.monitor = monitor
        self.best = BestScore(mode)

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.best.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best.load_state_dict(state_dict)

    def target(self, trainer: Trainer) -> Path:
        """Return the directory of the exported weights.

        Args:
            trainer: The trainer.
        """
        return Path(self.directory) if self.directory else Path(trainer.default_root_dir) / "best"

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Clear up after a run that was killed while it exported.

        Raises:
            UserError: Something else than an earlier export is there.
        """
        if stage == "fit":
            of_rank_zero(trainer, lambda: self._clear(self.target(trainer)))

    def _clear(self, target: Path) -> None:
        recover_folder(target)
        refuse_export_place(target, "the directory of callbacks.WeightsExport")

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        fitting = trainer.state.fn == TrainerFn.FITTING
        if trainer.sanity_checking or not fitting or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise UserError(
                f"validation did not log {self.monitor!r}, by which weights are exported; it logged: {known}"
            )
        if self.best.improves(float(value), trainer.global_step):
            self._export(trainer, pl_module)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if self.best.value is None:
            rank_zero_warn(f"{self.monitor} was never measured: the last weights are exported, not the best ones")
            self._export(trainer, pl_module)
        elif trainer.is_global_zero and not self.target(trainer).is_dir():
            raise UserError(f"{self.target(trainer)}, the export of step {self.best.step}, was removed during the run")

    def _export(self, trainer: Trainer, pl_module: Any) -> None:
        target = self.target(trainer)
        problem: UserError | None = None
        if trainer.is_global_zero or pl_module.student.sharded:
            notes = {"module": type(pl_module).__qualname__, "step": trainer.global_step, self.monitor: self.best.value}
            try:
                pl_module.student.save_pretrained(target, {"training.json": json.dumps(notes, indent=2) + "\n"})
                score = "" if self.best.value is None else f" with {self.monitor} {self.best.value:.4g}"
                rank_zero_info(f"step {trainer.global_step}: weights{score} exported to {target}")
            except UserError as error:
                problem = error
        problem = trainer.strategy.broadcast(problem)  # nobody goes on before the export has ended, or when it failed
        if problem is not None:
            raise problem
