"""A student's weights under the Hub's names, adapters folded in, one tensor after the other.

Folding all adapted matrices at once would hold a second copy of the language model; as a stream there is one at a time,
however many are written or sent.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_modules.models.architectures.architecture import Architecture
from records.hub_files import HubTensor

HubType = torch.dtype | Mapping[str, torch.dtype] | None
"""Type that floating-point weights are wanted in: one for all, one by name on the Hub, or as they are in memory,
with those that an adapter changes in float32."""


Read = Callable[[str], Tensor]
"""Returns a weight that is not in memory by its name in the transformers model."""


class _Source(NamedTuple):
    """Where a weight comes from: its value in memory, its name there, and the layer whose adapter changes it."""

    value: Tensor
    name: str
    adapter: Any | None


def untied_by_adapters(base: Any) -> bool:
    """Return whether an adapter changes one of two weights that are one tensor in the model without adapters.

    Args:
        base: The transformers model, adapters inside.
    """
    adapters = _adapters(base)
    return any(not adapters.keys().isdisjoint(pair) for pair in base.all_tied_weights_keys.items())


def hub_shapes(base: Any, architecture: Architecture, dtype: HubType = None) -> dict[str, HubTensor]:
    """Return what :class:`HubTensors` will yield, in its order; nothing is computed or gathered.

    Args:
        base: The transformers model, adapters inside.
        architecture: Its architecture.
        dtype: As for :class:`HubTensors`.
    """
    return {
        name: HubTensor(tuple(source.value.shape), _type_of(name, source, dtype))
        for name, source in _sources(base, architecture).items()
    }


class HubTensors(Iterator[tuple[str, Tensor]]):
    """Name and value of each weight: contiguous, without gradient, in main memory or on another device.

    What needs no computing, converting or copying shares the model's memory. Drop each tensor before asking for the
    next one (``del``), so that there is one at a time.

    Where weights are sharded this is a collective act: all ranks run through it, rank 0 is given the tensors and the
    others nothing at all. A rank that may stop early closes it (``contextlib.closing``), by which it takes part in what
    is left; otherwise the others would wait for it.
    """

    def __init__(
        self,
        base: Any,
        architecture: Architecture,
        dtype: HubType = None,
        device: torch.device | str = "cpu",
        read: Read | None = None,
    ) -> None:
        """Begin at the first weight; nothing is computed yet.

        Args:
            base: The transformers model, adapters inside.
            architecture: Its architecture.
            dtype: Type of the floating-point weights.
            device: Where the values are wanted.
            read: Reads weights that have no storage, one at a time.
        """
        self._device = torch.device(device)
        self._sources = iter(_sources(base, architecture).items())
        self._dtype = dtype
        self._read = read

    def __next__(self) -> tuple[str, Tensor]:
        """Compute the next weight."""
        for name, source in self._sources:
            if source.value.is_meta and self._read is not None:
                source = source._replace(value=self._read(source.name).to(source.value.dtype))
            value = _whole(source, _type_of(name, source, self._dtype), self._device)
            if value is not None:
                return name, value
        raise StopIteration

    def close(self) -> None:
        """Gather what is left, with the other ranks, and drop it."""
        for name, source in self._sources:
            if isinstance(source.value, DTensor):
                _whole(source, _type_of(name, source, self._dtype), self._device)


def _adapters(base: Any) -> dict[str, Any]:
    """Return the layers that carry adapters, by the plain name of the weight that they change."""
    return {f"{name}.weight": module for name, module in base.named_modules() if isinstance(module, LoraLayer)}


def _sources(base: Any, architecture: Architecture) -> dict[str, _Source]:
    adapters = _adapters(base)
    # the head where it is the token embeddings: no checkpoint has both, unless an adapter makes two of them
    tied = {} if untied_by_adapters(base) else base.all_tied_weights_keys
    sources = {}
    for name, value in base.state_dict().items():
        plain = name.replace(".base_layer.", ".")
        if ".lora_" not in name and plain not in tied:
            sources[architecture.hub_name(plain)] = _Source(value.detach(), name, adapters.get(plain))
    return sources


def _type_of(name: str, source: _Source, dtype: HubType) -> torch.dtype:
    own = source.value.dtype
    if source.adapter is not None:  # low precision would round the adapter away: the base has no digits to spare
        own = torch.promote_types(own, torch.float32)
    if dtype is None or not own.is_floating_point:
        return own
    return dtype if isinstance(dtype, torch.dtype) else dtype.get(name, own)


@torch.no_grad()
def _whole(source: _Source, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Return a weight as it is wanted; None where it is sharded and another rank gets it."""
    value = source.value
    if source.adapter is not None:
        # summed in float32 and rounded once: a low-precision weight would swallow the adapter twice
        value = source.adapter.get_delta_weight(source.adapter.active_adapters[0]).float().add_(value)
    value = value.to(dtype)
    if isinstance(value, DTensor):
        value = value.full_tensor()
        if torch.distributed.get_rank() > 0:
            return None
        value = value.to(device)
        # without the rows that pad it to equal shards: no file may hold them
        value = value if value.untyped_storage().nbytes() == value.nbytes else value.clone()
    return value.to(device).contiguous()
