"""Weights in buckets: small ones are packed and travel together, a large one travels by itself and is not copied.

Both sides cut the same list by the same rule, so that nothing but names, types and shapes must be agreed upon. Small
weights of one block (attention, feed-forward) stay together where they fit: vLLM fuses some of them, and keeps what it
has of a fused weight, with the bucket, until it has all.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from records.hub_files import HubTensor

MIB = 1024**2

ALONE = MIB
"""Bytes from which a weight travels by itself: to copy it into a bucket takes longer than to send one more message."""


def cut(shapes: Mapping[str, HubTensor], bucket_bytes: int) -> list[dict[str, HubTensor]]:
    """Cut weights into runs that fit into a bucket.

    Args:
        shapes: Name, shape and type of each weight, in order.
        bucket_bytes: Size of a bucket; a weight that is larger, or than :data:`ALONE`, is a run by itself.

    Returns:
        The weights of each run.
    """
    found: list[dict[str, HubTensor]] = []
    filled = 0
    for _, members in itertools.groupby(shapes.items(), lambda item: item[0].rsplit(".", 2)[0]):
        inside = list(members)
        rest = sum(part.nbytes for _, part in inside)
        for place, (name, part) in enumerate(inside):
            alone = part.nbytes >= ALONE
            needed = rest if place == 0 and rest <= bucket_bytes else part.nbytes
            if not found or alone or (filled and filled + needed > bucket_bytes):
                found.append({})
                filled = 0
            found[-1][name] = part
            filled = max(bucket_bytes, 1) if alone else filled + part.nbytes
    return found


def pack(tensors: Iterable[tuple[str, Tensor]], shapes: Mapping[str, HubTensor], bucket_bytes: int) -> Iterator[Tensor]:
    """Yield the bytes of each bucket, which stay as they are until the one after the next is asked for.

    Args:
        tensors: Names and values in main memory, in the order of ``shapes``; each is let go before the next is asked
            for.
        shapes: What was announced.
        bucket_bytes: Size of a bucket.

    Raises:
        ValueError: Something else comes than was announced.
    """
    stream = iter(tensors)
    runs = cut(shapes, bucket_bytes)
    size = max((nbytes(run) for run in runs if len(run) > 1), default=0)
    buffers: list[Tensor] = []  # two in turns: memory that is taken anew costs as much as filling it
    packed = 0
    for run in runs:
        bucket = None
        if len(run) > 1:
            if len(buffers) < 2:
                buffers.append(torch.empty(size, dtype=torch.uint8))
            bucket = buffers[packed % 2][: nbytes(run)]
            packed += 1
        filled = 0
        for expected, part in run.items():
            name, value = next(stream, ("nothing", torch.empty(0)))
            if (name, tuple(value.shape), value.dtype) != (expected, *part):
                raise ValueError(f"expected {expected} {part}, {name} {tuple(value.shape)} {value.dtype} came")
            flat = as_bytes(value)
            del value
            if bucket is None:
                bucket = flat
            else:
                bucket[filled : filled + part.nbytes] = flat
            filled += part.nbytes
            del flat
        assert bucket is not None
        yield bucket
        del bucket
    if (surplus := next(stream, None)) is not None:
        raise ValueError(f"{surplus[0]} came after all that was announced")


def unpack(bucket: Tensor, run: Mapping[str, HubTensor]) -> list[tuple[str, Tensor]]:
    """Return the weights of a bucket, which share its memory.

    Args:
        bucket: Its bytes.
        run: Names, shapes and types of its weights.
    """
    found, begin = [], 0
    for name, part in run.items():
        flat = bucket[begin : begin + part.nbytes]
        begin += part.nbytes
        # a type wider than a byte wants its place to be a multiple of its size, which mixed types may miss
        aligned = flat if flat.storage_offset() % part.dtype.itemsize == 0 else flat.clone()
        found.append((name, aligned.view(part.dtype).view(part.shape)))
    return found


def as_bytes(value: Tensor) -> Tensor:
    """Return a tensor's bytes, which share its memory where it is contiguous."""
    return value.detach().contiguous().view(-1).view(torch.uint8)


def announce(shapes: Mapping[str, HubTensor]) -> dict[str, list]:
    """Return names, types and shapes as vLLM's engines are told of them."""
    return {
        "names": list(shapes),
        "dtype_names": [str(part.dtype).removeprefix("torch.") for part in shapes.values()],
        "shapes": [list(part.shape) for part in shapes.values()],
    }


def announced(
    names: Sequence[str], dtype_names: Sequence[str], shapes: Sequence[Sequence[int]]
) -> dict[str, HubTensor]:
    """Return what was announced.

    Args:
        names: Names of the weights.
        dtype_names: Their types, as torch names them.
        shapes: Their shapes.

    Raises:
        ValueError: The lists do not belong together, or hold what is no type or no shape.
    """
    if not len(names) == len(dtype_names) == len(shapes) or len(set(names)) < len(names):
        raise ValueError(f"{len(names)} names, {len(dtype_names)} types and {len(shapes)} shapes were announced")
    found = {}
    for name, dtype_name, shape in zip(names, dtype_names, shapes, strict=True):
        dtype = getattr(torch, dtype_name, None)
        if not isinstance(dtype, torch.dtype) or any(size < 0 for size in shape):
            raise ValueError(f"{name} was announced as {dtype_name} {list(shape)}")
        found[name] = HubTensor(tuple(shape), dtype)
    return found


def nbytes(shapes: Mapping[str, HubTensor]) -> int:
    """Return the bytes of weights."""
    return sum(part.nbytes for part in shapes.values())


def largest(shapes: Mapping[str, HubTensor]) -> int:
    """Return the bytes of the largest weight."""
    return max((part.nbytes for part in shapes.values()), default=0)
