"""A student's weights under the Hub's names, adapters folded in, one tensor after the other.

Folding all adapted matrices at once would hold a second copy of the language model; as a stream there is one at a time,
however many are written or sent.
"""

import functools
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
    """Where a weight comes from: its value in memory, its name there, and the layer whose adapter changes it.

    ``plain`` is the name without adapters.
    """

    value: Tensor
    name: str
    plain: str
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
        name: HubTensor(tuple(part.shape), _type_of(name, source, dtype))
        for source in _sources(base)
        for name, part in _named(source, architecture).items()
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
        self._architecture = architecture
        self._sources = iter(_sources(base))
        self._parts: Iterator[tuple[str, Tensor]] = iter(())
        self._dtype = dtype
        self._read = read

    def __next__(self) -> tuple[str, Tensor]:
        """Compute the next weight."""
        while (part := next(self._parts, None)) is None:
            source = next(self._sources)
            if source.value.is_meta and self._read is not None:
                source = source._replace(value=self._read(source.name).to(source.value.dtype))
            value = _whole(source, self._type_of_all(source), self._device)
            if value is not None:
                self._parts = self._split(source, value)
        return part

    def close(self) -> None:
        """Gather what is left, with the other ranks, and drop it."""
        self._parts = iter(())
        for source in self._sources:
            if isinstance(source.value, DTensor):
                _whole(source, self._type_of_all(source), self._device)

    def _type_of_all(self, source: _Source) -> torch.dtype:
        """Return the type in which a weight is gathered: that of its tensor on the Hub, or the widest of several."""
        names = _named(source, self._architecture)
        return functools.reduce(torch.promote_types, (_type_of(name, source, self._dtype) for name in names))

    def _split(self, source: _Source, value: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors on the Hub that a weight is."""
        for name, part in self._architecture.hub_weights(source.plain, value).items():
            part = part.to(_type_of(name, source, self._dtype)).contiguous()
            # a part that shares the memory of others cannot be written to a file
            yield name, part if part is value or part.untyped_storage().nbytes() == part.nbytes else part.clone()


def _adapters(base: Any) -> dict[str, Any]:
    """Return the layers that carry adapters, by the plain name of the weight that they change."""
    return {f"{name}.weight": module for name, module in base.named_modules() if isinstance(module, LoraLayer)}


def _sources(base: Any) -> list[_Source]:
    adapters = _adapters(base)
    # the head where it is the token embeddings: no checkpoint has both, unless an adapter makes two of them
    tied = {} if untied_by_adapters(base) else base.all_tied_weights_keys
    sources = []
    for name, value in base.state_dict().items():
        plain = name.replace(".base_layer.", ".")
        if ".lora_" not in name and plain not in tied:
            sources.append(_Source(value.detach(), name, plain, adapters.get(plain)))
    return sources


def _named(source: _Source, architecture: Architecture) -> dict[str, Tensor]:
    """Return what a weight is on the Hub, for its shapes and types alone."""
    value = source.value
    if isinstance(value, DTensor):  # a part of it may be on other ranks
        value = torch.empty(value.shape, dtype=value.dtype, device="meta")
    return architecture.hub_weights(source.plain, value)


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
