"""Random numbers of each training batch as a pure function of the seed and the batch's place."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override


class StepSeed(Callback):
    """Seeds torch, numpy and Python before each training batch, so that a resumed run repeats dropout and the like.

    No state of a random number generator has to be saved: the state is a function of seed, epoch, batch and rank.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        seed_batch(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)


def seed_batch(seed: int, epoch: int, batch: int, rank: int) -> None:
    """Seed all random number generators of this process.

    Args:
        seed: The run's seed.
        epoch: The epoch, from 0.
        batch: The batch of the epoch, from 0.
        rank: The process.
    """
    words = np.random.SeedSequence([seed % 2**63, epoch, batch, rank]).generate_state(3, np.uint64)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]) % 2**32)
    torch.manual_seed(int(words[2]) % 2**63)
