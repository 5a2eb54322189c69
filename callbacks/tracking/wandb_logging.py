"""What the Weights & Biases callbacks have in common: the run.

With any other logger, or none, there is no run and the callbacks log nothing.
"""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger

from runtime.lightning_internals import logger_step


def wandb_loggers(trainer: Trainer) -> list[WandbLogger]:
    """Return the trainer's Weights & Biases loggers; the same on all ranks.

    Args:
        trainer: The trainer.
    """
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def log_to_wandb(trainer: Trainer, values: dict[str, Any]) -> None:
    """Log media at the step under which Lightning logs this batch's scalars; rank 0 only, as the loggers are.

    Args:
        trainer: The trainer.
        values: Tables, histograms, plots or numbers under their keys.
    """
    for logger in wandb_loggers(trainer):
        logger.log_metrics(values, step=logger_step(trainer))
