"""Accuracy on Weights & Biases: the best so far, and each category at each validation."""

from typing import Any

import wandb
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from callbacks.tracking.wandb_logging import log_to_wandb, wandb_loggers
from records.best_score import BestScore
from runtime.lightning_internals import logger_step

COLUMNS = ["step", "category", "accuracy"]


class AccuracyLogger(Callback):
    """Tracks accuracy over the validations of a run.

    ``AudioQAModule`` logs ``val/accuracy`` and ``val/accuracy/<category>`` to any logger. This callback adds
    ``val/best_accuracy`` and ``val/best_step`` (to any logger; a sweep optimises the former), and, on Weights & Biases,
    a table of all validations by category and a bar chart of the last one. Tests get table and chart, too.
    """

    def __init__(self) -> None:
        self.best = BestScore()
        self.rows: list[list[Any]] = []

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**self.best.state_dict(), "rows": self.rows}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best.load_state_dict(state_dict)
        self.rows = state_dict["rows"]

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        found = accuracies(trainer, "val")
        if not found:
            return
        overall = found.get("overall")
        if overall is not None:
            self.best.improves(overall, trainer.global_step)
            assert self.best.value is not None and self.best.step is not None
            best = {"val/best_accuracy": self.best.value, "val/best_step": float(self.best.step)}
            for logger in trainer.loggers:
                logger.log_metrics(best, step=logger_step(trainer))
        self.rows = [row for row in self.rows if row[0] < trainer.global_step]  # a resumed run repeats a validation
        self.rows += [[trainer.global_step, name, value] for name, value in found.items()]
        self._show(trainer, "val", found)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = accuracies(trainer, "test")
        if found:
            self.rows = [[trainer.global_step, name, value] for name, value in found.items()]
            self._show(trainer, "test", found)

    def _show(self, trainer: Trainer, stage: str, found: dict[str, float]) -> None:
        if not wandb_loggers(trainer) or not trainer.is_global_zero:
            return
        bars = wandb.Table(columns=["category", "accuracy"], data=[[name, value] for name, value in found.items()])
        log_to_wandb(
            trainer,
            {
                f"{stage}/accuracy_table": wandb.Table(columns=COLUMNS, data=self.rows),
                f"{stage}/accuracy_chart": wandb.plot.bar(bars, "category", "accuracy", title=f"{stage} accuracy"),
            },
        )


def accuracies(trainer: Trainer, stage: str) -> dict[str, float]:
    """Return the accuracy overall and of each category that the module logged.

    Args:
        trainer: The trainer.
        stage: ``val`` or ``test``.
    """
    prefix = f"{stage}/accuracy"
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
    found = {"overall": metrics[prefix]} if prefix in metrics else {}
    return found | {n.removeprefix(prefix + "/"): v for n, v in sorted(metrics.items()) if n.startswith(prefix + "/")}
