"""AdamW's moments of 8 bits, as torchao keeps them, in checkpoints: of float32, and back without a change."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

SIGNED = {"exp_avg": True, "exp_avg_sq": False, "max_exp_avg_sq": False}
"""Moments that may have 8 bits, and whether they have a sign."""


def plain_values(moment: Tensor) -> Tensor:
    """Return a moment in float32, from which :meth:`KeepsEightBits.kept` makes the same 8 bits.

    Each block of values has a scale, its largest magnitude, and codes that stand for shares of it. A negative largest
    value has a code that stands for less than it (-0.993), which would be the next scale; here it is the scale itself.

    Args:
        moment: A moment, or this rank's part of one; one that has no 8 bits is returned as it is.
    """
    if not is_traceable_wrapper_subclass(moment):
        return moment
    codes, scales, shares = (getattr(moment, name) for name in moment.__tensor_flatten__()[0])
    shares = torch.where(shares == shares.min(), shares.min().sign(), shares)
    return (shares[codes.int()].view(len(scales), -1) * scales.view(-1, 1)).view(codes.shape)


class KeepsEightBits(Optimizer):
    """What goes before torchao's AdamW of 8 bits: moments of a checkpoint get 8 bits again where they had them."""

    @torch.no_grad()
    def kept(self, weight: Tensor, kind: str, value: Tensor) -> Tensor:
        """Return a moment as this optimizer keeps it.

        It is the very one that :func:`plain_values` was given where ranks share the weight as they did then. Otherwise
        blocks of values may begin elsewhere, so that they are rounded once more.

        Args:
            weight: The weight, sharded or not.
            kind: Name of the moment.
            value: The moment in float32, spread like the weight; one of 8 bits is returned as it is.
        """
        if kind not in SIGNED or is_traceable_wrapper_subclass(_part(value)):
            return value
        room: Tensor = self._new_buffer(weight, SIGNED[kind])  # type: ignore[attr-defined]
        mine = _part(room)
        if not is_traceable_wrapper_subclass(mine):
            return value
        mine.copy_(_part(value).to(mine.device))
        return room

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Go on with what a checkpoint holds, one moment after the other.

        Args:
            state_dict: What :meth:`state_dict` returned, its moments of 8 bits or in float32.
        """
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        weights = [weight for group in self.param_groups for weight in group["params"]]
        state = {
            number: {kind: self.kept(weight, kind, value) for kind, value in state_dict["state"][number].items()}
            for number, weight in zip(numbers, weights, strict=True)
            if number in state_dict["state"]
        }
        super().load_state_dict(dict(state_dict) | {"state": state})


def _part(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
