"""Weights from trainer to rollout servers through a directory that both can read.

The weights are checked against the checkpoint that the server was started with, because vLLM takes a checkpoint that
lacks a tensor without a word and then samples nonsense.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from inference.vllm.client import ServerFailed, ServerRefused, VLLMClient
from records.hub_files import HubTensor
from runtime.errors import UserError

PUSH_SECONDS = 600.0
LOADS = 3
"""Times that a server which is well may fail to load weights before the weights are to blame."""

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


def check_weights(weights: Mapping[str, HubTensor], specs: Mapping[str, TensorSpec], server: str = "") -> None:
    """Check that weights have exactly the names and shapes that the server's checkpoint has.

    Args:
        weights: The student's weights under Hub names.
        specs: What the server's checkpoint holds.
        server: Address of the server, for the message.

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
        found, expected = weights[name].shape, specs[name].shape
        if found != expected:
            problems.append(f"{name} is {list(found)} in the student and {list(expected)} on the server")
        elif weights[name].dtype.is_floating_point != (specs[name].dtype in DTYPES):
            problems.append(f"{name} is {weights[name].dtype} in the student and {specs[name].dtype} on the server")
    if problems:
        raise WeightSyncError(
            f"the student's weights do not fit the rollout server's model{f' ({server})' if server else ''}, nothing "
            "was sent: "
            + "; ".join(problems[:4])
            + ("; ..." if len(problems) > 4 else "")
            + ". Start the server with the checkpoint that the student starts from"
        )


def sent_types(specs: Mapping[str, TensorSpec], computes_in: Sequence[str | None]) -> dict[str, torch.dtype]:
    """Return in which type each floating-point weight is sent: the one that the servers compute in.

    Where they differ the widest is sent, and where one does not say, the type in its checkpoint, if that is wider.

    Args:
        specs: What the servers' checkpoint holds.
        computes_in: What each server computes in, for example ``bfloat16`` or, which a 16-bit checkpoint decides,
            ``float16``; None where it does not say.
    """
    types = {}
    for name, spec in specs.items():
        filed = DTYPES.get(spec.dtype)
        if filed is None:
            continue
        narrow = filed if filed.itemsize == 2 else torch.bfloat16
        wanted = [
            filed if server is None else torch.float32 if server == "float32" else narrow for server in computes_in
        ]
        types[name] = max(wanted, key=lambda dtype: dtype.itemsize, default=filed)
    return types


def push(client: VLLMClient, directory: str | Path, version: str, seconds: float = PUSH_SECONDS) -> None:
    """Make one server load weights and say that it has.

    Requests under way are finished first, new ones wait. When the load fails the server stays paused, because with
    half of the weights the next request would end its engine; another push brings it back.

    Args:
        client: The server.
        directory: Where the weights are; a name on the Hub is possible too.
        version: Their name.
        seconds: How long the server may take for it.

    Raises:
        ServerUnreachable: The server went away, or is not ready in time; push again when it is back.
        WeightSyncError: It cannot load them, or reports another version afterwards.
    """
    deadline = time.monotonic() + seconds
    client.pause(_left(deadline))
    for load in range(1, LOADS + 1):
        try:
            client.reload_weights(str(directory), _left(deadline))
            break  # a good load repairs a failed one, as long as nothing has run between
        except ServerFailed as error:
            if not client.healthy():
                raise
            if load == LOADS:
                raise WeightSyncError(
                    f"{error} ({LOADS} times, although the server itself is well); {_PAUSED}"
                ) from None
        except ServerRefused as error:
            raise WeightSyncError(f"{error}; {_PAUSED}") from None
    client.set_weight_version(version)
    client.resume()
    found = client.weight_version()
    if found != version:
        raise WeightSyncError(
            f"{client.url} reports weight version {found!r} right after it was given {version!r}: "
            "does another run use the same server?"
        )


_PAUSED = "the server stays paused until a push succeeds, which any run begins with"


def can_read(client: VLLMClient, probe: Path, seconds: float = PUSH_SECONDS) -> str | None:
    """Ask a server whether it can read a folder with a file of no weights; its own weights stay as they are.

    Args:
        client: The server; it must not be asked anything else meanwhile, but may be paused.
        probe: The folder.
        seconds: How long it may take, until requests under way have been finished.

    Returns:
        None when it can, otherwise its own words.

    Raises:
        ServerUnreachable: It does not answer.
        ServerRefused: It cannot load weights at all.
    """
    paused = client.is_paused()
    if not paused:
        client.pause(_left(time.monotonic() + seconds))
    problem = None
    try:
        client.load_in_place(str(probe), seconds)
    except ServerFailed as error:
        if not client.healthy():
            raise
        problem = str(error)
    finally:
        if not paused:  # one that was found paused may have broken weights, with which it must not go on
            client.resume()
    return problem


def _left(deadline: float) -> float:
    return max(1.0, deadline - time.monotonic())


def _some(names: set[str]) -> str:
    first = sorted(names)[:2]
    return ", ".join(first) + (", ..." if len(names) > 2 else "")
