"""Types of weights in memory: float32 where they are trained, half of it where they are not."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch

from lightning_modules.models.checkpoints.checkpoint_folder import WeightsError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

AUTO = "auto"
"""bfloat16 for weights that are not trained, on a GPU that computes in it; float32 otherwise."""

_low: ContextVar[bool] = ContextVar("low", default=False)


@contextlib.contextmanager
def frozen_in_bfloat16(wanted: bool = True) -> Iterator[None]:
    """Let students that are made inside keep the weights that they do not train in bfloat16, unless told otherwise.

    Args:
        wanted: False changes nothing.
    """
    token = _low.set(wanted)
    try:
        yield
    finally:
        _low.reset(token)


def computes_in_bfloat16(accelerator: Any, precision: Any) -> bool:
    """Tell whether a trainer with such settings computes in bfloat16 on a GPU.

    Weights in bfloat16 then lose nothing that the computation would have kept: each matrix is rounded to it anyway.

    Args:
        accelerator: ``trainer.accelerator``.
        precision: ``trainer.precision``.
    """
    on_gpu = str(accelerator) in ("auto", "gpu", "cuda", "None") and torch.cuda.is_available()
    return on_gpu and str(precision).startswith("bf16")


def weight_type(dtype: str, trained: bool) -> torch.dtype:
    """Return the type that a student's weights are loaded in.

    Args:
        dtype: Its name, or :data:`AUTO`.
        trained: Whether they are trained.

    Raises:
        WeightsError: There is no such type.
    """
    if dtype == AUTO:
        return torch.bfloat16 if _low.get() and not trained else torch.float32
    if dtype not in DTYPES:
        raise WeightsError(f"dtype {dtype!r} is unknown: use one of {', '.join([AUTO, *DTYPES])}")
    return DTYPES[dtype]


def gathered_type(dtype: str) -> torch.dtype | None:
    """Return the type that weights which ranks share are gathered in, None for their own.

    Args:
        dtype: Its name, or :data:`AUTO`.

    Raises:
        WeightsError: There is no such type.
    """
    if dtype == AUTO and not _low.get():
        return None
    return weight_type(dtype, trained=False)


def reference_type(dtype: str | None, of_policy: str) -> str:
    """Return the name of the type of a frozen reference's weights.

    Args:
        dtype: What was asked for: a name, :data:`AUTO`, or None for the policy's.
        of_policy: Name of the type of the policy's weights.
    """
    if dtype == AUTO:
        return "bfloat16" if _low.get() else of_policy
    return dtype or of_policy
