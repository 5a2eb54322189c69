"""What is known in main memory, on its way to a device that nobody waits for.

Lengths decide shapes, so they must be known where the program runs. Read from a GPU, each of them would make the
program wait until the GPU has done all it was given. So they stay in main memory, as arrays; what a device needs of
them is computed there and sent.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Copy an array to a device and go on at once.

    Args:
        array: The array, or a tensor in main memory.
        device: Where it goes; a GPU fetches it from pinned memory, when its turn comes.
    """
    tensor = array if isinstance(array, Tensor) else torch.from_numpy(array)
    if device.type == "cuda" and torch.cuda.is_available():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def to_device_together(arrays: Sequence[np.ndarray], device: torch.device) -> tuple[Tensor, ...]:
    """Copy arrays of one dimension and integers to a device in one transfer.

    Args:
        arrays: The arrays.
        device: Where they go.

    Returns:
        As many tensors, parts of one.
    """
    whole = to_device(np.concatenate(arrays).astype(np.int64, copy=False), device)
    return whole.split([len(array) for array in arrays])
