"""What torchao's AdamW with moments of 8 bits takes, for plans that are made where it is not installed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

BLOCK, LEAST = 256, 4096
"""Values that share a scale, and values of which a tensor must have this many at least (torchao 0.13)."""


class PlannedAdamW8bit(Optimizer):
    """Has moments of the same size, and changes nothing: torchao's compiled step takes no memory beside them."""

    def __init__(self, params: Any, lr: float) -> None:
        """Begin without moments.

        Args:
            params: Weights, or groups of them.
            lr: Learning rate.
        """
        super().__init__(params, {"lr": lr, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Make moments where there are none."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and not self.state[p]:
                    self.state[p] = {f"{name}.{part}": v for name in "mv" for part, v in _moment(p).items()}
        return loss


def _moment(p: Tensor) -> dict[str, Tensor]:
    own = (p.to_local() if isinstance(p, DTensor) else p).numel()
    if own < LEAST or own % BLOCK:
        return {"whole": torch.zeros_like(p)}
    return {"codes": torch.zeros_like(p, dtype=torch.uint8), "scales": torch.zeros(own // BLOCK, device=p.device)}
