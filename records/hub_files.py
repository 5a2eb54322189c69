"""Safetensors files of bounded size, written tensor by tensor as a stream of weights arrives.

A file's header lists names, types and places of its tensors, so with shapes known beforehand it can be written first
and each tensor put to its place when it comes: no file is ever whole in memory.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

SHARD_BYTES = 5 * 1000**3
"""Largest size of a file's tensors, as on the Hub; a single larger tensor has a file of its own."""

INDEX = "model.safetensors.index.json"

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class HubTensor(NamedTuple):
    """What is known of a weight before it is computed.

    Attributes:
        shape: Its shape.
        dtype: Its type.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_hub_files(
    tensors: Iterable[tuple[str, Tensor]],
    shapes: Mapping[str, HubTensor],
    directory: Path,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write ``model.safetensors``, or several files with an index where one would be too large.

    Args:
        tensors: Names and values, in the order of ``shapes``; each is let go before the next one is asked for.
        shapes: What will come.
        directory: Where to; it exists.
        shard_bytes: Largest size of a file's tensors.

    Raises:
        ValueError: What comes is not what ``shapes`` says.
        OSError: There is no room, for example.
    """
    shards = _shards(shapes, shard_bytes)
    files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    files = ["model.safetensors"] if len(shards) == 1 else files
    stream = iter(tensors)
    for file, names in zip(files, shards, strict=True):
        with open(directory / file, "wb") as content:
            places = _write_header(content, {name: shapes[name] for name in names})
            for expected in names:
                name, value = next(stream, ("nothing", torch.empty(0)))
                if (name, tuple(value.shape), value.dtype) != (expected, *shapes[expected]):
                    raise ValueError(f"expected {expected} {shapes[expected]}, {name} {tuple(value.shape)} came")
                content.seek(places[name])
                if value.numel():
                    content.write(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
                del value
            content.flush()
            os.fsync(content.fileno())
    if (surplus := next(stream, None)) is not None:
        raise ValueError(f"{surplus[0]} came after all that was expected")
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(part.nbytes for part in shapes.values())},
            "weight_map": {name: file for file, names in zip(files, shards, strict=True) for name in names},
        }
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(shapes: Mapping[str, HubTensor], shard_bytes: int) -> list[list[str]]:
    """Divide names into files, in their order."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, part in shapes.items():
        if shards[-1] and size + part.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += part.nbytes
    return shards


def _write_header(content: IO[bytes], parts: Mapping[str, HubTensor]) -> dict[str, int]:
    """Write a file's header and return where in the file each tensor begins."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, part in sorted(parts.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):  # so all are aligned
        header[name] = {
            "dtype": _NAMES[part.dtype],
            "shape": list(part.shape),
            "data_offsets": [end, end + part.nbytes],
        }
        end += part.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    content.write(len(text).to_bytes(8, "little") + text)
    start = 8 + len(text)
    return {name: start + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}
