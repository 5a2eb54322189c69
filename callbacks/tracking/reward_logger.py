"""Rewards on Weights & Biases beyond their means: how they are distributed, and by category."""

from collections import defaultdict
from typing import Any

import numpy as np
import wandb
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from callbacks.tracking.wandb_logging import log_to_wandb, wandb_loggers
from datamodules.batching.batch import AudioQABatch
from lightning_modules.doors import GradedRollouts, fitting
from runtime.all_ranks import all_gather_objects
from runtime.errors import refuse_below


class RewardLogger(Callback):
    """Tracks the rewards of GRPO's rollouts.

    ``GRPOModule`` logs the means (``train/reward``, each part, spread within groups, ...) to any logger. This callback
    adds what only Weights & Biases can show: histograms of total reward and advantage over all completions of all
    ranks, and the mean reward of each category of questions since the last histogram.

    Args:
        every_n_batches: Batches between two histograms.
    """

    def __init__(self, every_n_batches: int = 10) -> None:
        refuse_below(1, every_n_batches=every_n_batches)
        self.every_n_batches = every_n_batches
        self._by_category: dict[str, list[float]] = defaultdict(list)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that trains without rewards."""
        if stage == "fit":
            self._module(pl_module)

    def _module(self, pl_module: LightningModule) -> GradedRollouts:
        return fitting(pl_module, GradedRollouts, self, "GRPOModule and others that reward rollouts")

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: AudioQABatch, batch_idx: int
    ) -> None:
        module = self._module(pl_module)
        if module.last_totals is None or not wandb_loggers(trainer):
            return
        totals = module.last_totals.detach().float().cpu()
        for question, reward in zip(batch.questions, totals.mean(-1).tolist(), strict=True):
            self._by_category[question.category].append(reward)
        if (batch_idx + 1) % self.every_n_batches != 0:
            return
        advantages = module.last_advantages
        shares = all_gather_objects(
            trainer,
            [
                (
                    totals.flatten().tolist(),
                    [] if advantages is None else advantages.detach().float().cpu().flatten().tolist(),
                    dict(self._by_category),
                )
            ],
        )
        self._by_category.clear()
        categories: dict[str, list[float]] = defaultdict(list)
        for _, _, by_category in shares:
            for name, rewards in by_category.items():
                categories[name] += rewards
        values: dict[str, Any] = {"train/reward_histogram": histogram([r for share in shares for r in share[0]])}
        if advantages is not None:
            values["train/advantage_histogram"] = histogram([a for share in shares for a in share[1]])
        values |= {f"train/reward_by_category/{name}": float(np.mean(r)) for name, r in sorted(categories.items())}
        log_to_wandb(trainer, values)


def histogram(values: list[float]) -> wandb.Histogram:
    """Return a histogram, also of equal values.

    Args:
        values: The values.
    """
    low, high = min(values), max(values)
    edges = np.linspace(low, high, 21) if high > low else np.array([low - 0.5, low + 0.5])
    return wandb.Histogram(np_histogram=np.histogram(values, bins=edges))
