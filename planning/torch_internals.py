"""What torch and Lightning keep to themselves and a step without values stands on: here, and in no other place.

There is no public way to compute with shapes alone, to be one of many ranks that do not exist, or to see operations
and storages as they come. ``tests/test_foreign_internals.py`` fails when an upgrade moves one of them.
"""

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from lightning.fabric.strategies.model_parallel import _setup_device_mesh
from lightning.pytorch.strategies import model_parallel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._dtensor_spec import DTensorSpec
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

__all__ = ["DTensorSpec", "FakeStore", "FakeTensorMode", "TorchDispatchMode", "tree_iter", "unset_fake_temporarily"]

Method = Callable[..., Any]

_SHAPES_OF_WHOLES = "_propagate_tensor_meta_non_cached"
_SHARDINGS = "propagate_op_sharding_non_cached"
_WHOLES: Method = getattr(ShardingPropagator, _SHAPES_OF_WHOLES)
_ATEN = torch.ops.aten

READS_A_VALUE = _ATEN._local_scalar_dense.default
"""The operation that brings a tensor's only value to main memory."""

CPU_ATTENTION = _ATEN._scaled_dot_product_flash_attention_for_cpu
CPU_ATTENTION_BACKWARD = _ATEN._scaled_dot_product_flash_attention_for_cpu_backward


def wholes_not_seen(hide: Callable[[Method], Method]) -> Any:
    """Return a context in which torch's own thinking about the shapes of whole tensors that ranks share is hidden.

    Args:
        hide: Makes of a method one that is not looked at.
    """
    return mock.patch.object(ShardingPropagator, _SHAPES_OF_WHOLES, hide(_WHOLES))


def shardings_decided_by(wrap: Callable[[Method], Method]) -> Any:
    """Return a context in which torch finds out otherwise how the results of an operation are shared.

    Args:
        wrap: Makes of torch's method another one.
    """
    return mock.patch.object(ShardingPropagator, _SHARDINGS, wrap(getattr(ShardingPropagator, _SHARDINGS)))


def mesh_made_by(wrap: Callable[[Method], Method]) -> Any:
    """Return a context in which Lightning makes its mesh of ranks otherwise.

    Args:
        wrap: Makes of the function that makes it another one.
    """
    return mock.patch.object(model_parallel, "_setup_device_mesh", wrap(_setup_device_mesh))


def overloads_of(operation: Any) -> Any:
    """Return what an operation is one overload of, which formulas go by.

    Args:
        operation: As the dispatcher names it.
    """
    return operation._overloadpacket


def name_of(operation: Any) -> str:
    """Return an operation's name with its namespace.

    Args:
        operation: As the dispatcher names it.
    """
    return str(operation._schema.name)


def storage_key(storage: Any) -> int:
    """Return what tells a storage from others while it lives; one without values has no address.

    Args:
        storage: The storage.
    """
    return int(storage._cdata)


def local_tensors(tensor: Tensor) -> list[Tensor]:
    """Return what a tensor occupies on this rank; ``to_local`` would be one more operation that is seen.

    Args:
        tensor: The tensor.
    """
    return [tensor._local_tensor] if isinstance(tensor, DTensor) else [tensor]


def apply_in_place(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """What ``Module.to`` does, where a parameter without values cannot take the place of another.

    Args:
        module: The module.
        fn: Applied to each parameter and buffer.
        recurse: Go into its children.
    """
    for child in module.children() if recurse else ():
        child._apply(fn)
    for name, value in module._parameters.items():
        if value is not None:
            with torch.no_grad():
                applied = fn(value)
            if applied is not value:
                module._parameters[name] = nn.Parameter(applied, value.requires_grad)
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else fn(buffer)
    return module
