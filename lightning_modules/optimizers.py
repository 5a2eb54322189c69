"""AdamW, and AdamW with moments of 8 bits."""

from typing import Any

import torch
from torch.optim import Optimizer

from lightning_modules.eight_bit_moments import KeepsEightBits
from runtime.errors import UserError

OPTIMIZERS = ("adamw", "adamw8bit")


def eight_bit() -> type[Optimizer]:
    """Return torchao's AdamW whose moments take 8 bits.

    Raises:
        UserError: There is no torchao.
    """
    try:
        from torchao.optim import AdamW8bit  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError(
            f"model.optimizer adamw8bit needs torchao, which cannot be imported ({error}): install it with "
            "`pip install torchao`, or set model.optimizer to adamw"
        ) from error
    return type(AdamW8bit.__name__, (KeepsEightBits, AdamW8bit), {})


def check_optimizer(name: str) -> None:
    """Refuse an optimizer that cannot be had, before any weights are loaded for it.

    Args:
        name: One of :data:`OPTIMIZERS`.

    Raises:
        UserError: There is none of that name, or what it needs is not installed.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"model.optimizer {name!r} is unknown: use {' or '.join(OPTIMIZERS)}")
    if name == "adamw8bit":
        eight_bit()


def make_optimizer(name: str, groups: list[dict[str, Any]], lr: float, scaled: bool) -> Optimizer:
    """Make an optimizer of weights that are where they are trained.

    On a GPU AdamW takes one kernel for many weights, and no memory beside them. Such a kernel undoes the scaling of the
    loss (float16) by itself, too late for gradients that are clipped before, so that it is not for those.

    Args:
        name: One of :data:`OPTIMIZERS`.
        groups: Weights and their settings.
        lr: Learning rate.
        scaled: Whether the loss is scaled.
    """
    if name == "adamw8bit":
        return eight_bit()(groups, lr=lr)  # type: ignore[call-arg]
    on_gpu = all(p.device.type == "cuda" for group in groups for p in group["params"])
    fused = {"fused": True} if on_gpu and not scaled else {}
    return torch.optim.AdamW(groups, lr=lr, **fused)  # type: ignore[arg-type]
