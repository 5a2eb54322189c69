"""Weights from trainer to rollout servers through a directory that both can read.

The weights are checked against the checkpoint that the server was started with, because vLLM takes a checkpoint that
lacks a tensor without a word and then samples nonsense.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from callbacks.vllm_client import ServerError, ServerUnreachable, VLLMClient
from datamodules.records import UserError

SHARD_BYTES = 2 * 1024**3
"""Size of the files in which weights are written: it bounds the memory for converting them."""

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class WeightSyncError(UserError):
    """The student's weights do not fit the server, or did not reach it."""


@dataclass(frozen=True)
class TensorSpec:
    """What a checkpoint says of one tensor.

    Attributes:
        shape: Its shape.
        dtype: Its type, as safetensors names it.
    """

    shape: tuple[int, ...]
    dtype: str


def read_specs(directory: str | os.PathLike[str]) -> dict[str, TensorSpec]:
    """Read names, shapes and types of all tensors in a directory's safetensors files; only headers are read.

    Raises:
        WeightSyncError: There are none, or one is damaged.
    """
    files = sorted(Path(directory).glob("*.safetensors"))
    if not files:
        raise WeightSyncError(f"no safetensors files in {directory}")
    specs = {}
    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    part = tensors.get_slice(name)
                    specs[name] = TensorSpec(tuple(part.get_shape()), part.get_dtype())
        except (SafetensorError, OSError) as error:
            raise WeightSyncError(f"{file} cannot be read: {error}") from None
    return specs


def find_checkpoint(model: str) -> Path:
    """Return the local directory of a checkpoint named by path or by its name on the Hub.

    Raises:
        WeightSyncError: It is not on this machine.
    """
    if Path(model).is_dir():
        return Path(model)
    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, ValueError, OSError):
        raise WeightSyncError(
            f"the server's checkpoint {model!r} is not on this machine: set server_checkpoint to a directory with the "
            "same weights, so that names and shapes can be checked before anything is sent"
        ) from None


def check_weights(weights: Mapping[str, Tensor], specs: Mapping[str, TensorSpec]) -> None:
    """Check that weights have exactly the names and shapes that the server's checkpoint has.

    Args:
        weights: The student's weights under Hub names.
        specs: What the server's checkpoint holds.

    Raises:
        WeightSyncError: They differ; the message names the first tensors.
    """
    problems = []
    for what, names in (
        ("missing from the student", specs.keys() - weights.keys()),
        ("unknown to the server", weights.keys() - specs.keys()),
    ):
        if names:
            problems.append(f"{len(names)} weights are {what} ({_some(names)})")
    for name in sorted(weights.keys() & specs.keys()):
        found, expected = tuple(weights[name].shape), specs[name].shape
        if found != expected:
            problems.append(f"{name} is {list(found)} in the student and {list(expected)} on the server")
        elif weights[name].is_floating_point() != (specs[name].dtype in DTYPES):
            problems.append(f"{name} is {weights[name].dtype} in the student and {specs[name].dtype} on the server")
    if problems:
        raise WeightSyncError(
            "the student's weights do not fit the rollout server's model, nothing was sent: "
            + "; ".join(problems[:4])
            + ("; ..." if len(problems) > 4 else "")
        )


class WeightDirectory:
    """Where versions of the weights are written; only the last one is kept."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Use an existing directory or create it.

        Args:
            root: The directory.
        """
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)

    def path(self, version: str) -> Path:
        """Return the directory of a version."""
        return self.root / version.replace(":", "-")

    def write(self, weights: Mapping[str, Tensor], version: str, specs: Mapping[str, TensorSpec]) -> Path:
        """Write weights in the types of the server's checkpoint; older versions are deleted afterwards.

        Args:
            weights: The student's weights under Hub names.
            version: Name of this version.
            specs: What the server's checkpoint holds; the weights must have been checked against it.

        Returns:
            The directory, complete.

        Raises:
            WeightSyncError: They do not fit, or the directory has no room.
        """
        check_weights(weights, specs)
        target = self.path(version)
        partial = self.root / f".{target.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            for number, names in enumerate(_shards(weights)):
                part = {name: _as_on_server(weights[name], specs[name]) for name in names}
                save_file(part, partial / f"model-{number:05d}.safetensors", metadata={"format": "pt"})
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise WeightSyncError(
                f"the weights could not be written to {self.root} ({error}): make room there or set sync_dir"
            ) from None
        if read_specs(partial) != dict(specs):
            raise WeightSyncError(f"the weights in {partial} are not those that were written: is its disk full?")
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        for other in self.root.iterdir():
            if other.is_dir() and other != target:
                shutil.rmtree(other, ignore_errors=True)
        return target

    @contextlib.contextmanager
    def lock(self, server: str) -> Iterator[None]:
        """Hold off other processes that want to change one server's weights."""
        name = hashlib.sha256(server.encode()).hexdigest()[:16]
        with open(self.root / f"{name}.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def remove(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.root, ignore_errors=True)


def push(client: VLLMClient, directory: Path, version: str) -> None:
    """Make one server load weights and say that it has.

    Requests under way are finished first, new ones wait. When the load fails the server stays paused, because with
    half of the weights the next request would end its engine; another push brings it back.

    Args:
        client: The server.
        directory: Where the weights are.
        version: Their name.

    Raises:
        ServerUnreachable: The server went away; push again when it is back.
        WeightSyncError: It reports another version afterwards.
    """
    client.pause()
    try:
        client.reload_weights(str(directory))
    except ServerUnreachable:
        client.reload_weights(str(directory))  # a good load repairs a failed one, as long as nothing has run between
    except ServerError as error:
        raise WeightSyncError(f"{error}; the server stays paused until a push succeeds") from None
    client.set_weight_version(version)
    client.resume()
    found = client.weight_version()
    if found != version:
        raise WeightSyncError(
            f"{client.url} reports weight version {found!r} right after it was given {version!r}: "
            "does another run use the same server?"
        )


def _as_on_server(value: Tensor, spec: TensorSpec) -> Tensor:
    return value.detach().to("cpu", DTYPES.get(spec.dtype, value.dtype)).contiguous()


def _shards(weights: Mapping[str, Tensor]) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, value in weights.items():
        if names and size + value.nbytes > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += value.nbytes
    yield names


def _some(names: set[str]) -> str:
    first = sorted(names)[:2]
    return ", ".join(first) + (", ..." if len(names) > 2 else "")
