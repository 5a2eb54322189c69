"""Students of a known size without weights and without a tokenizer, for what needs their shapes alone."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import GenerationConfig

from lightning_modules.models.architectures.transformers_internals import new_model
from lightning_modules.models.checkpoints.checkpoint_folder import load_architecture


def model_of_shapes(
    weights: str, folder_of: Callable[[str], Path], dtype: torch.dtype, attn_implementation: str
) -> tuple[Any, Any]:
    """Make a model on the device and in the mode at hand, its values as they come.

    Args:
        weights: What the configuration says.
        folder_of: Returns a folder with a ``config.json`` for it.
        dtype: Type of its weights.
        attn_implementation: Attention of its parts.

    Returns:
        The model, and what stands for its processor.
    """
    folder = str(folder_of(weights))
    architecture = load_architecture(folder)[0]
    config = architecture.model_class.config_class.from_pretrained(folder)
    model = new_model(architecture.model_class, config, dtype=dtype, attn_implementation=attn_implementation)
    model.requires_grad_(True)
    model.generation_config = GenerationConfig()
    return model, SimpleNamespace()
