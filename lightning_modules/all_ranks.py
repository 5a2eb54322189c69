"""What the ranks of a run know together."""

from typing import TypeVar

import torch
from lightning.pytorch import Trainer

T = TypeVar("T")


def of_all_ranks(trainer: Trainer, rows: list[T]) -> list[T]:
    """Return the rows of all ranks in the order of the ranks; every rank must call it.

    Args:
        trainer: The trainer.
        rows: This rank's rows.
    """
    if trainer.world_size == 1:
        return rows
    shards: list[list[T]] = [[] for _ in range(trainer.world_size)]
    torch.distributed.all_gather_object(shards, rows)
    return [row for shard in shards for row in shard]
