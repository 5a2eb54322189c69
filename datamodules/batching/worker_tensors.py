"""How a DataLoader's workers hand over tensors: in memory of their own, so that the size of ``/dev/shm`` is no matter.

torch puts tensors into files of ``/dev/shm``, of which containers have 64 MB by default and which exported weights may
fill: a worker then dies as soon as a few batches wait. Anonymous memory (``memfd_create``) is as fast and has no such
limit; small tensors go through the pipe.
"""

import mmap
import os
from collections.abc import Callable
from multiprocessing.reduction import DupFd, ForkingPickler
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.seed import pl_worker_init_function
from torch import Tensor

from runtime.parent_death import end_with_parent

_LARGE = 1 << 16
"""Bytes from which a file descriptor is cheaper than a copy through the pipe."""


def prepare_worker(worker_id: int) -> None:
    """Let a worker hand over tensors without ``/dev/shm`` and end with its run; the ``worker_init_fn`` of a DataLoader.

    Args:
        worker_id: The worker's number.
    """
    end_with_parent()  # a killed run's worker may wait for ever to hand over a batch
    ForkingPickler.register(Tensor, _handed_over)
    if int(os.environ.get("PL_SEED_WORKERS", 0)):  # what Lightning does where there is no worker_init_fn
        pl_worker_init_function(worker_id)


def _handed_over(tensor: Tensor) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    content = tensor.detach().contiguous().flatten().view(torch.uint8).numpy()
    what = tensor.dtype, tuple(tensor.shape)
    if content.nbytes < _LARGE or not hasattr(os, "memfd_create"):
        return _from_copy, (content, *what)
    file = os.memfd_create("batch")
    try:
        left = content.data
        while left:
            left = left[os.write(file, left) :]
        return _from_memory, (DupFd(file), content.nbytes, *what)
    finally:
        os.close(file)


def _from_copy(content: np.ndarray, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(content).view(dtype).view(shape)


def _from_memory(handle: Any, size: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    file = handle.detach()
    try:
        memory = mmap.mmap(file, size)
    finally:
        os.close(file)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
