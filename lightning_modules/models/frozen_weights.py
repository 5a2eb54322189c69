"""Whether the weights that a run does not train are those that it began with."""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from lightning_modules.models.checkpoints.deferred_weights import own_rows

SAMPLES = 64
"""Values that are looked at in each tensor."""

KEY = "frozen_weights"
"""Key of a checkpoint under which the fingerprint is kept."""


def fingerprint(module: nn.Module, read: Callable[[str], Tensor] | None = None) -> str:
    """Return a fingerprint of all weights that are not trained: names, shapes, types and some values of each.

    Another training run moves nearly every value, so a few of each tensor tell weights apart; 8.4 B parameters take
    milliseconds. It is the same however many ranks the weights are spread over; all of them must call it then.

    Args:
        module: The module, its weights in memory, whole or sharded.
        read: Reads weights that are not in memory by their names in the module, one at a time.
    """
    frozen = [(name, p.detach()) for name, p in sorted(module.named_parameters()) if not p.requires_grad]
    seen = hashlib.sha256("".join(f"{name} {tuple(p.shape)} {p.dtype};" for name, p in frozen).encode())
    if frozen:
        values = torch.cat(
            [_sample(read(name).to(p.dtype) if read is not None and p.is_meta else p) for name, p in frozen]
        )
        mesh = next((p.device_mesh for _, p in frozen if isinstance(p, DTensor)), None)
        if mesh is not None:
            distributed.all_reduce(values, distributed.ReduceOp.MAX, mesh.get_group(-1))
        seen.update(values.cpu().numpy().tobytes())
    return seen.hexdigest()[:32]


def _sample(weight: Tensor) -> Tensor:
    """Return values of a weight at places spread over it ``[S]``, float64; minus infinity for those of other ranks."""
    count = min(SAMPLES, weight.numel())
    local, start = weight, 0
    if isinstance(weight, DTensor):
        local, start = weight.to_local(), own_rows(weight).start * math.prod(weight.shape[1:])
    places = torch.arange(count, device=local.device) * (weight.numel() - 1) // max(count - 1, 1) - start
    own = (places >= 0) & (places < local.numel())
    sample = torch.full((count,), -math.inf, dtype=torch.float64, device=local.device)
    sample[own] = local.reshape(-1)[places[own]].double()
    return sample


def differ(checkpoint: dict[str, Any], present: str | None) -> bool:
    """Tell whether a checkpoint was written beside other frozen weights; an older one says nothing about them.

    Args:
        checkpoint: The checkpoint.
        present: The fingerprint of the present ones, or None.
    """
    then = checkpoint.get(KEY)
    return then is not None and present is not None and then != present
