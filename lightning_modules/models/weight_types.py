"""Types of weights in memory: float32 where they are trained, half of it where they are not."""

from typing import Any

import torch

from lightning_modules.models.checkpoints.checkpoint_folder import WeightsError
from lightning_modules.models.checkpoints.loading import Loading

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

AUTO = "auto"
"""bfloat16 for weights that are not trained, on a GPU that computes in it; float32 otherwise."""


def computes_in_bfloat16(accelerator: Any, precision: Any) -> bool:
    """Tell whether a trainer with such settings computes in bfloat16 on a GPU.

    Weights in bfloat16 then lose nothing that the computation would have kept: each matrix is rounded to it anyway.

    Args:
        accelerator: ``trainer.accelerator``.
        precision: ``trainer.precision``.
    """
    on_gpu = str(accelerator) in ("auto", "gpu", "cuda", "None") and torch.cuda.is_available()
    return on_gpu and str(precision).startswith("bf16")


def weight_type(dtype: str, trained: bool, loading: Loading) -> torch.dtype:
    """Return the type that a student's weights are loaded in.

    Args:
        dtype: Its name, or :data:`AUTO`.
        trained: Whether they are trained.
        loading: How it is loaded.

    Raises:
        WeightsError: There is no such type.
    """
    if dtype == AUTO:
        return torch.bfloat16 if loading.frozen_in_bfloat16 and not trained else torch.float32
    if dtype not in DTYPES:
        raise WeightsError(f"dtype {dtype!r} is unknown: use one of {', '.join([AUTO, *DTYPES])}")
    return DTYPES[dtype]


def gathered_type(dtype: str, loading: Loading) -> torch.dtype | None:
    """Return the type that weights which ranks share are gathered in, None for their own.

    Args:
        dtype: Its name, or :data:`AUTO`.
        loading: How they are loaded.

    Raises:
        WeightsError: There is no such type.
    """
    if dtype == AUTO and not loading.frozen_in_bfloat16:
        return None
    return weight_type(dtype, False, loading)


def reference_type(dtype: str | None, of_policy: str, loading: Loading) -> str:
    """Return the name of the type of a frozen reference's weights.

    Args:
        dtype: What was asked for: a name, :data:`AUTO`, or None for the policy's.
        of_policy: Name of the type of the policy's weights.
        loading: How both are loaded.
    """
    if dtype == AUTO:
        return "bfloat16" if loading.frozen_in_bfloat16 else of_policy
    return dtype or of_policy
