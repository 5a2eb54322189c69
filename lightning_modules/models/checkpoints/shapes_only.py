"""Students of a known size without weights and without a tokenizer, for what needs their shapes alone."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import GenerationConfig

from lightning_modules.models.architectures.transformers_internals import new_model
from lightning_modules.models.checkpoints.checkpoint_folder import load_architecture

_folder_of: ContextVar[Callable[[str], Path] | None] = ContextVar("folder_of", default=None)


@contextlib.contextmanager
def shapes_only(folder_of: Callable[[str], Path]) -> Iterator[None]:
    """Let students that are made inside have the shapes of a checkpoint and none of its values.

    Args:
        folder_of: Returns, for what a configuration calls ``weights``, a folder with a ``config.json``.
    """
    token = _folder_of.set(folder_of)
    try:
        yield
    finally:
        _folder_of.reset(token)


def shapes_suffice() -> bool:
    """Return whether students are to be made without weights."""
    return _folder_of.get() is not None


def model_of_shapes(weights: str, dtype: torch.dtype, attn_implementation: str) -> tuple[Any, Any]:
    """Make a model on the device and in the mode at hand, its values as they come.

    Args:
        weights: What the configuration says.
        dtype: Type of its weights.
        attn_implementation: Attention of its parts.

    Returns:
        The model, and what stands for its processor.
    """
    folder_of = _folder_of.get()
    assert folder_of is not None
    folder = str(folder_of(weights))
    architecture = load_architecture(folder)[0]
    config = architecture.model_class.config_class.from_pretrained(folder)
    model = new_model(architecture.model_class, config, dtype=dtype, attn_implementation=attn_implementation)
    model.requires_grad_(True)
    model.generation_config = GenerationConfig()
    return model, SimpleNamespace()
