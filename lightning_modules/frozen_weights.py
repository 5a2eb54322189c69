"""Whether the weights that a run does not train are those that it began with."""

import hashlib
from typing import Any

import torch
from torch import nn

SAMPLES = 64
"""Values that are looked at in each tensor."""

KEY = "frozen_weights"
"""Key of a checkpoint under which the fingerprint is kept."""


def fingerprint(module: nn.Module) -> str | None:
    """Return a fingerprint of all weights that are not trained: names, shapes, types and some values of each.

    Another training run moves nearly every value, so a few of each tensor tell weights apart; 8.4 B parameters take
    milliseconds.

    Args:
        module: The module, its weights whole and in memory.

    Returns:
        A text, or None where a weight is only a part of itself or not there yet.
    """
    seen = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        if parameter.requires_grad:
            continue
        if parameter.is_meta or hasattr(parameter, "full_tensor"):
            return None
        seen.update(f"{name} {tuple(parameter.shape)} {parameter.dtype};".encode())
        values = parameter.detach().reshape(-1)
        places = torch.linspace(0, len(values) - 1, min(SAMPLES, len(values)), dtype=torch.float64).long()
        seen.update(values[places.to(values.device)].double().cpu().numpy().tobytes())
    return seen.hexdigest()[:32]


def differ(checkpoint: dict[str, Any], present: str | None) -> bool:
    """Tell whether a checkpoint was written beside other frozen weights; an older one says nothing about them.

    Args:
        checkpoint: The checkpoint.
        present: The fingerprint of the present ones, or None.
    """
    then = checkpoint.get(KEY)
    return then is not None and present is not None and then != present
