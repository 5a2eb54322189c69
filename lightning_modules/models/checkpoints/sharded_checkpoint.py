"""A checkpoint on disk of which each rank has written a part: read on any number of ranks, or one tensor at a time.

The folder is one of ``torch.distributed.checkpoint``: a file ``__RANK_0.distcp`` of each rank with its parts of weights
and moments, ``.metadata``, which says which part lies where, and ``meta.pt`` with all that is no tensor of the model.
PyTorch reads ``.metadata`` by ``pickle``, which can run a stranger's code; here it may name nothing but the few classes
that such a file is made of.
"""

import contextlib
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from typing_extensions import override

from runtime.errors import UserError

PLAIN_VALUES = "meta.pt"
"""File of such a folder with all that is neither weight nor moment."""

METADATA = ".metadata"
"""File of such a folder that says which part of which tensor is where."""

WEIGHT = "state_dict."
"""Begins the name of a weight in such a folder."""

_CLASSES = {
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    ),
}


class CheckpointError(UserError):
    """A checkpoint cannot be read or written."""


class Moment(NamedTuple):
    """What an optimizer keeps of a weight.

    Attributes:
        weight: The weight's name.
        kind: The optimizer's name for it, such as ``exp_avg``.
    """

    weight: str
    kind: str


def moment_name(optimizer: int, moment: Moment) -> str:
    """Return the name of a moment in such a folder.

    Args:
        optimizer: Number of the optimizer.
        moment: The moment.
    """
    return f"{_moments_of(optimizer)}{moment.weight}.{moment.kind}"


def _moments_of(optimizer: int) -> str:
    return f"optimizer_{optimizer}.state."


class ShardedCheckpoint:
    """Such a folder; opening it reads no tensor.

    Attributes:
        path: The folder.
        plain: What is no tensor of the model: progress, schedules, states of callbacks and data.
    """

    def __init__(self, path: Path) -> None:
        """Open it.

        Args:
            path: The folder.

        Raises:
            CheckpointError: It is none, torn, of an earlier version or holds what no checkpoint holds.
        """
        self.path = path
        with _readable(path):
            self.plain: dict[str, Any] = torch.load(path / PLAIN_VALUES, map_location="cpu", weights_only=True)
            self._metadata = _read_metadata(path / METADATA)
        if self._tensors("optimizer_") and "optimizer_states" not in self.plain:
            raise CheckpointError(
                f"checkpoint {path} was written by an earlier version in another way: go on with that version, or "
                "begin anew from the weights that the run has exported (--model.init_args.weights DIR)"
            )

    def _tensors(self, prefix: str) -> dict[str, TensorStorageMetadata]:
        found = self._metadata.state_dict_metadata.items()
        return {
            name.removeprefix(prefix): entry
            for name, entry in found
            if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
        }

    def weights(self) -> dict[str, Tensor]:
        """Return all weights by their names in the module, without storage."""
        return {
            name: torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
            for name, entry in self._tensors(WEIGHT).items()
        }

    def moments(self, optimizer: int) -> dict[Moment, Tensor]:
        """Return all that an optimizer keeps, without storage.

        Args:
            optimizer: Its number.
        """
        return {
            Moment(*name.rsplit(".", 1)): torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
            for name, entry in self._tensors(_moments_of(optimizer)).items()
        }

    def read(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill tensors in place, one after the other; of a sharded one this rank's part alone.

        Args:
            tensors: What is filled, by its name in the folder.

        Raises:
            CheckpointError: A file is damaged, or a tensor is not there in this shape.
        """
        for name, value in tensors.items():
            entry = self._metadata.state_dict_metadata.get(name)
            if not isinstance(entry, TensorStorageMetadata) or entry.size != value.shape:
                there = f"{list(entry.size)}" if isinstance(entry, TensorStorageMetadata) else "not there"
                raise CheckpointError(
                    f"checkpoint {self.path} does not fit this model: {name} of shape {list(value.shape)} is {there}"
                )
        planner, reader = _TensorsOnly(), FileSystemReader(self.path)
        with _readable(self.path), torch.no_grad():
            planner.set_up_planner(dict(tensors), self._metadata, is_coordinator=True)
            reader.set_up_storage_reader(self._metadata, is_coordinator=True)
            plan = planner.create_global_plan([planner.create_local_plan()])[0]
            reader.read_data(planner.finish_plan(plan), planner).wait()

    def weight(self, name: str) -> Tensor:
        """Return one weight, whole and in main memory.

        Args:
            name: Its name in the module.

        Raises:
            CheckpointError: It cannot be read.
        """
        entry = self._tensors(WEIGHT)[name]
        value = torch.empty(entry.size, dtype=entry.properties.dtype)
        self.read({WEIGHT + name: value})
        return value

    def whole(self, moments: bool = True) -> dict[str, Any]:
        """Return the checkpoint as a run whose weights are not sharded has it, all of it in main memory.

        Args:
            moments: Also what the optimizers keep.

        Raises:
            CheckpointError: A file is damaged.
        """
        weights = {name: torch.empty_like(value, device="cpu") for name, value in self.weights().items()}
        tensors = {WEIGHT + name: value for name, value in weights.items()}
        states = []
        for number, state in enumerate(self.plain.get("optimizer_states", []) if moments else []):
            numbers = {
                name: place for place, name in enumerate(name for g in state["param_groups"] for name in g["params"])
            }
            kept: dict[int, dict[str, Tensor]] = {}
            for moment, shape in self.moments(number).items():
                value = torch.empty_like(shape, device="cpu")
                tensors[moment_name(number, moment)] = kept.setdefault(numbers[moment.weight], {})[moment.kind] = value
            groups = [g | {"params": [numbers[name] for name in g["params"]]} for g in state["param_groups"]]
            states.append({"state": kept, "param_groups": groups})
        self.read(tensors)
        plain = {key: value for key, value in self.plain.items() if key != "optimizer_states"}
        return plain | {"state_dict": weights} | ({"optimizer_states": states} if states else {})


def is_sharded_checkpoint(path: str | Path) -> bool:
    """Tell whether a path is such a folder.

    Args:
        path: The path.
    """
    return (Path(path) / METADATA).is_file() and (Path(path) / PLAIN_VALUES).is_file()


class _TensorsOnly(DefaultLoadPlanner):
    """Reads tensors and nothing else: what is no tensor would be unpickled."""

    @override
    def load_bytes(self, read_item: Any, value: Any) -> None:
        raise pickle.UnpicklingError(f"{read_item.dest_index.fqn} is no tensor")


class _MetadataUnpickler(pickle.Unpickler):
    @override
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _CLASSES and not (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        ):
            raise pickle.UnpicklingError(f"{METADATA} names {module}.{name}, which no checkpoint needs")
        return super().find_class(module, name)


def _read_metadata(file: Path) -> Metadata:
    with open(file, "rb") as content:
        metadata = _MetadataUnpickler(content).load()
    if not isinstance(metadata, Metadata):
        raise pickle.UnpicklingError(f"{METADATA} holds a {type(metadata).__name__}")
    return metadata


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say in one sentence that a checkpoint cannot be read."""
    try:
        yield
    except (
        OSError,
        RuntimeError,
        EOFError,
        LookupError,
        AssertionError,
        AttributeError,
        TypeError,
        ValueError,
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0][:200]
    else:
        return
    raise CheckpointError(
        f"checkpoint {path} cannot be read ({reason}): it is torn, of another program, or holds more than tensors and "
        "plain values; remove it to start afresh"
    )
