"""Finds on a CPU what only several GPUs would refuse: logged tensors that were made in main memory."""

from typing import Any

import lightning
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_MADE_WHERE_ASKED = {
    torch.tensor, torch.as_tensor, torch.zeros, torch.ones, torch.full, torch.empty, torch.arange, torch.linspace,
    torch.rand, torch.randn, torch.randint, torch.scalar_tensor, torch.eye,
}  # fmt: skip


class HostTensors(TorchFunctionMode):
    """Follows tensors that would lie in main memory if the module were on a GPU.

    Such is what a factory makes without ``device``, what ``cpu()`` returns, and what is computed from nothing else.
    What ``to`` returns lies where it was asked to lie.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if func in _MADE_WHERE_ASKED:
            host = kwargs.get("device") in (None, "cpu")
        elif func is torch.Tensor.cpu:
            host = True
        elif func is torch.Tensor.to:
            host = "cpu" in [*args[1:], kwargs.get("device")]
        else:
            host = bool(given) and all(map(is_host, given))
        if host and func in (torch.Tensor.cpu, torch.Tensor.to):
            made = made.view_as(made)  # on a CPU they return the tensor itself, on a GPU a copy
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                leaf._host = host  # type: ignore[attr-defined]
        return made


def is_host(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor would lie in main memory."""
    return bool(getattr(tensor, "_host", False))


def watch_logged(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Return a dictionary that gets each logged name, with whether its value would lie in main memory."""
    seen: dict[str, bool] = {}
    log = lightning.LightningModule.log

    def watched(self: Any, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        seen[name] = seen.get(name, False) or (isinstance(value, torch.Tensor) and is_host(value))
        log(self, name, value, *args, **kwargs)

    monkeypatch.setattr(lightning.LightningModule, "log", watched)
    return seen
