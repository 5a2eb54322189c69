"""What all loaders have in common: how their workers run, which rank they work for, and batches that are sent away."""

import multiprocessing
import os
from collections.abc import Sequence
from typing import Any, TypedDict, TypeVar

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.batching.sampler import eval_share
from datamodules.batching.worker_tensors import prepare_worker
from records.records import Question
from runtime.errors import UserError
from runtime.lightning_internals import uses_distributed_sampler

T = TypeVar("T")


class LoaderSettings(TypedDict):
    """Arguments of a DataLoader."""

    num_workers: int
    persistent_workers: bool
    worker_init_fn: Any
    pin_memory: bool


def loader_settings(num_workers: int) -> LoaderSettings:
    """Return how a loader's workers are run.

    Args:
        num_workers: How many there shall be.
    """
    workers = affordable_workers(num_workers)
    if workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # they are forked
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "worker_init_fn": prepare_worker,
        "pin_memory": torch.cuda.is_available(),
    }


def affordable_workers(num_workers: int) -> int:
    """Return how many workers can be started: all, or none where their queues find no room.

    Each queue and event has locks, which are files of a page each in ``/dev/shm``; torch makes some 20 for a loader and
    some more for each worker.

    Args:
        num_workers: How many there shall be.
    """
    locks = []
    try:
        for _ in range(20 + 5 * num_workers if num_workers else 0):
            locks.append(multiprocessing.Lock())
    except OSError as error:
        rank_zero_warn(
            f"data.num_workers is {num_workers}, but their queues find no room in /dev/shm ({error.strerror}): clips "
            "are decoded in the training process, which is slower; give the container more (docker run --shm-size=1g "
            "or --ipc=host)"
        )
        return 0
    return num_workers


def rank_of(trainer: Trainer | None) -> tuple[int, int]:
    """Return this process's rank and the number of ranks, over which the DataModules share their questions out.

    Args:
        trainer: The trainer; without one there is one rank.

    Raises:
        UserError: Lightning would share them out once more.
    """
    if trainer is None:
        return 0, 1
    if trainer.world_size > 1 and uses_distributed_sampler(trainer):
        raise UserError(
            "the DataModule shares the questions out over the devices itself: "
            "set trainer.use_distributed_sampler to false"
        )
    return trainer.global_rank, trainer.world_size


def own_share(trainer: Trainer | None, questions: Sequence[Question]) -> list[Question]:
    """Return this rank's share of the questions.

    It does not depend on what is complete, so that a question stays on the machine that has its traces.

    Args:
        trainer: The trainer, or None.
        questions: All ranks' questions.

    Raises:
        UserError: Lightning would share them out once more.
    """
    return [questions[place] for place in eval_share(len(questions), *rank_of(trainer))]


class SentBatch(list[T]):
    """A batch that goes to another machine, and to no device of this one."""

    def to(self, device: Any, non_blocking: bool = False) -> "SentBatch[T]":
        """Return the batch as it is."""
        return self
