"""A Weights & Biases logger that remembers."""

from typing import Any

from lightning.pytorch.loggers import WandbLogger


class RecordingLogger(WandbLogger):
    """Keeps what is logged, besides logging it.

    Args:
        save_dir: Folder of the run.
    """

    seen: list[tuple[int | None, dict[str, Any]]] = []  # noqa: RUF012

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir=save_dir, offline=True, project="test")
        RecordingLogger.seen = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        RecordingLogger.seen.append((step, dict(metrics)))
        super().log_metrics(metrics, step)
