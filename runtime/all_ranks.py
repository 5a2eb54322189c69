"""What the ranks of a run know together."""

import os
from collections.abc import Callable
from typing import TypeVar

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only

from runtime.errors import UserError

T = TypeVar("T")


class RankZeroError(UserError):
    """What rank 0 did for all has failed."""


def is_rank_zero() -> bool:
    """Return True on the first rank, also before there is a trainer."""
    node = os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or "0"
    return int(getattr(rank_zero_only, "rank", 0)) == 0 and node == "0"  # Lightning's, set when a rank is launched


def all_gather_objects(trainer: Trainer, rows: list[T]) -> list[T]:
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


def largest_of_ranks(trainer: Trainer, number: int) -> int:
    """Return the largest of all ranks' numbers; every rank must call it.

    Args:
        trainer: The trainer.
        number: This rank's.
    """
    if trainer.world_size == 1:
        return number
    found = trainer.strategy.reduce(torch.tensor(number, device=trainer.strategy.root_device), reduce_op="max")
    return int(found)


def of_rank_zero(trainer: Trainer, work: Callable[[], T]) -> T:
    """Do something on rank 0 alone and return its result on all ranks; every rank must call it.

    Args:
        trainer: The trainer.
        work: What is done; its result is sent to the other ranks.

    Raises:
        RankZeroError: It failed, on the ranks that waited for it; rank 0 raises what was raised there.
    """
    done: tuple[T | None, str | None] = None, None
    failure: Exception | None = None
    if trainer.is_global_zero:
        try:
            done = work(), None
        except Exception as error:  # whatever it is, the other ranks wait for an answer
            failure = error
            done = None, str(error) if isinstance(error, UserError) else f"rank 0: {type(error).__name__}: {error}"
    result, problem = trainer.strategy.broadcast(done)
    if failure is not None:
        raise failure
    if problem is not None:
        raise RankZeroError(problem)
    return result  # type: ignore[return-value]
