"""A short GRPO run in a real Trainer, and the clock that reads its steps."""

import itertools
import time
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from benchmarks.measuring.learner_world import World
from benchmarks.measuring.trainer_fit import fit
from callbacks.rollout.vllm_rollout import VLLMRollout
from datamodules.batching.batch import AudioQABatch
from datamodules.batching.sampler import ResumableLoader
from lightning_modules.grpo import GRPOModule

PARTS = ("time/rollout", "time/rollout_wait", "time/learner", "time/sync")
WARM_UP = 2
"""Batches whose times do not count."""


class Questions(lightning.LightningDataModule):
    """Questions of the synthetic world."""

    def __init__(self, world: World, batches: int, batch_size: int, seconds: float = 10.0) -> None:
        """Make them.

        Args:
            world: Where they come from.
            batches: How many batches.
            batch_size: Questions in each.
            seconds: Length of the clips.
        """
        super().__init__()
        self.collate = world.collator
        self.examples: Any = [world.example(number, seconds) for number in range(batches * batch_size)]
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[AudioQABatch]:
        """All questions in order."""
        return ResumableLoader(self.examples, self.batch_size, collate_fn=self.collate)


class Clock(lightning.Callback):
    """When batches ended, what was logged of each, and how many tokens were learnt from."""

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()
        self.ends: list[float] = []
        self.logged: list[dict[str, float]] = []
        self.tokens: list[int] = []

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the time and what was logged."""
        self.ends.append(time.perf_counter())
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items() if name in PARTS})
        self.tokens.append(int(batch.completions.mask.sum()))

    @property
    def steps(self) -> list[float]:
        """Seconds from the end of one batch to that of the next."""
        return [after - before for before, after in itertools.pairwise(self.ends[WARM_UP - 1 :])]

    def part(self, name: str) -> list[float]:
        """Return the seconds of a part in the same steps."""
        return [row.get(name, 0.0) for row in self.logged[WARM_UP:]]


def run(
    module: GRPOModule,
    rollouts: VLLMRollout,
    questions: Questions,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Clock:
    """Train on the questions and return what the clock read."""
    clock = Clock()
    fit(module, questions, rollouts, clock, device=device, dtype=dtype)
    return clock
