"""Progress where there is no terminal: a line now and then instead of a bar that redraws itself."""

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from typing_extensions import override


def bar_is_visible() -> bool:
    """Return True when standard output and error reach a terminal, where a progress bar can redraw itself.

    Of a process that was started with one of them closed (``>&-``) it is None.
    """
    return all(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr))


class ProgressLines(ProgressBar):
    """Prints one line of progress at the first batch and then every few seconds.

    Args:
        every_seconds: Seconds between two lines at least.
    """

    def __init__(self, every_seconds: float = 10.0) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self._enabled = True
        self._last = float("-inf")
        self._done = 0

    @override
    def disable(self) -> None:
        self._enabled = False

    @override
    def enable(self) -> None:
        self._enabled = True

    def _line(self, trainer: Trainer, pl_module: LightningModule, stage: str, done: int, total: float) -> None:
        """Print a line when the last one was a while ago, and for the end of what has more than one batch."""
        now = time.monotonic()
        ends = trainer.global_step >= trainer.max_steps > 0 if trainer.training else done == total > 1
        if not self._enabled or (now - self._last < self.every_seconds and not ends):
            return
        self._last = now
        of = f"/{int(total)}" if total != float("inf") else ""
        metrics = self.get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        values = " ".join(f"{n} {v:.4g}" if isinstance(v, float) else f"{n} {v}" for n, v in metrics.items())
        self.print(f"{stage} batch {done}{of}" + (f" | {values}" if values else ""))

    @override
    def print(self, *args: Any, **kwargs: Any) -> None:
        if self._enabled:
            print(*args, **{"file": sys.stdout, "flush": True, **kwargs})

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.print("waiting for the first batch")

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stage = f"step {trainer.global_step}" + (f"/{trainer.max_steps}" if trainer.max_steps > 0 else "")
        self._line(
            trainer, pl_module, f"{stage}, epoch {trainer.current_epoch}", batch_idx + 1, trainer.num_training_batches
        )

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.sanity_checking:
            self._line(trainer, pl_module, "sanity check", batch_idx + 1, sum(trainer.num_sanity_val_batches))
        else:
            self._line(trainer, pl_module, "validation", batch_idx + 1, self.total_val_batches)

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._line(trainer, pl_module, "test", batch_idx + 1, sum(trainer.num_test_batches))

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._line(trainer, pl_module, "predict", batch_idx + 1, sum(trainer.num_predict_batches))
