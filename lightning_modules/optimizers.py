"""AdamW, and AdamW with moments of 8 bits."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

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


def settings_of(optimizer: Optimizer) -> list[dict[str, float]]:
    """Return what the user sets of each group of weights: its peak learning rate and its weight decay.

    Args:
        optimizer: An optimizer whose schedule has been made.
    """
    return [{name: float(group[name]) for name in ("initial_lr", "weight_decay")} for group in optimizer.param_groups]


def set_again(optimizer: Optimizer, scheduler: LambdaLR, settings: Sequence[Mapping[str, float]]) -> None:
    """Let a run's own settings count where a checkpoint has brought those that it was trained with.

    Where none has changed all numbers stay what they were, to the last bit.

    Args:
        optimizer: The optimizer, with its moments from the checkpoint.
        scheduler: Its schedule, at the checkpoint's step.
        settings: The settings of each group, as :func:`settings_of` returned them before.
    """
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        for name, value in own.items():
            _set(group, name, value)
    peaks = [own["initial_lr"] for own in settings]
    present = [lr * factor(scheduler.last_epoch) for lr, factor in zip(peaks, scheduler.lr_lambdas, strict=True)]
    scheduler.load_state_dict(scheduler.state_dict() | {"base_lrs": peaks, "_last_lr": present})
    for group, lr in zip(optimizer.param_groups, present, strict=True):
        _set(group, "lr", lr)


def _set(group: dict[str, Any], name: str, value: Any) -> None:
    if isinstance(group[name], Tensor):
        group[name].fill_(value)
    else:
        group[name] = value
