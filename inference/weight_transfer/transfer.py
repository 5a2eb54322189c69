"""Weights sent to servers by vLLM's transfer engines: what all ways have in common.

``gloo``, ``nccl`` and ``ipc`` lie in files of their names. Without any of them weights travel as files
(:mod:`inference.weight_transfer.weight_directory`).
"""

import ipaddress
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, NamedTuple, Protocol
from urllib.parse import urlsplit

import torch
from torch import Tensor

from inference.vllm.client import VLLMClient
from inference.weight_transfer.buckets import MIB, largest
from inference.weight_transfer.receivers import Receivers
from records.hub_files import HubTensor
from runtime.errors import UserError

AFTERMATH_SECONDS = 15.0
"""Time that one side has to come to its end after the other has failed."""


class TransferError(UserError):
    """Weights cannot be sent by the way that was chosen."""


class Sender(Protocol):
    """The trainer's side of a way, met with its receivers; vLLM's ``TrainerWeightTransferEngine`` is one."""

    def send_weights(self) -> None:
        """Send all weights: the receivers start, receive and finish."""

    def shutdown(self) -> None:
        """Leave the receivers."""


class Announced(NamedTuple):
    """What vLLM's engines want to know of a weight before it is sent: its ``ParamMeta``."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class WeightStream:
    """A student's weights, to be sent again and again; vLLM's ``WeightSource``.

    Attributes:
        shapes: Name, shape and type of each, in order.
    """

    def __init__(self, shapes: Mapping[str, HubTensor], tensors: Callable[[], Iterator[tuple[str, Tensor]]]) -> None:
        """Describe the weights.

        Args:
            shapes: What :meth:`__iter__` yields.
            tensors: Begins at the first one with the present values.
        """
        self.shapes = shapes
        self._tensors = tensors
        self._present: Iterator[tuple[str, Tensor]] = iter(())

    def metadata(self) -> list[Announced]:
        """Return what will be yielded, in order."""
        return [Announced(name, part.dtype, part.shape) for name, part in self.shapes.items()]

    def begin(self) -> None:
        """Begin with the present values, as other ranks do now."""
        self._present = self._tensors()

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value, one at a time, since :meth:`begin`."""
        return self._present

    def drain(self) -> None:
        """Go through what is left: other ranks may wait for this one at each weight."""
        for _ in self._present:
            pass


class WeightTransfer(ABC):
    """A way for weights.

    Attributes:
        name: What a server is started with: ``--weight-transfer NAME``.
        seconds: How long any step may take.
    """

    name: ClassVar[str]

    def __init__(self, bucket_mib: int, seconds: float) -> None:
        """Set sizes and limits.

        Args:
            bucket_mib: Size of the buckets in which weights travel, in MiB.
            seconds: How long any step may take.

        Raises:
            TransferError: One is not positive.
        """
        if bucket_mib < 1 or seconds <= 0:
            raise TransferError(
                f"bucket_mib is {bucket_mib} and seconds is {seconds}: both must be positive, and bucket_mib whole"
            )
        self.bucket_bytes = bucket_mib * MIB
        self.seconds = seconds

    @abstractmethod
    def check(self, device: torch.device, ranks: int, servers: list[str]) -> None:
        """Refuse what this way cannot do, before anything is sent.

        Args:
            device: Where the student's weights are.
            ranks: Processes of the trainer.
            servers: Addresses of the servers.

        Raises:
            TransferError: It cannot; the message says which way can.
        """

    def bucket_for(self, shapes: Mapping[str, HubTensor]) -> int:
        """Return the size of a bucket into which each weight fits."""
        return max(self.bucket_bytes, largest(shapes))

    def device_for(self, device: torch.device) -> torch.device:
        """Return where weights must be when they are sent.

        Args:
            device: Where the student's weights are.
        """
        return device

    def receivers(self, clients: list[VLLMClient]) -> Receivers:
        """Return servers as receivers of this way."""
        return Receivers(clients, self.seconds)

    @abstractmethod
    def meet(self, receivers: Receivers, weights: WeightStream) -> Sender:
        """Meet the servers; rank 0 of the trainer alone.

        Args:
            receivers: The servers.
            weights: What will be sent.

        Raises:
            ServerError: One did not come.
            TransferError: This machine cannot do it.
        """


def check_reachable(address: str, servers: list[str]) -> None:
    """Refuse a loopback address at which servers of other machines would look for the trainer.

    Args:
        address: At which the servers meet the trainer.
        servers: Their addresses.

    Raises:
        TransferError: One is on another machine, by its address.
    """
    for server in servers:
        if is_loopback(address) and not is_local(server):
            raise TransferError(
                f"{server} would look for the trainer at {address}, which every machine has for itself: set "
                "weight_transfer.init_args.address to this machine's address in the servers' network"
            )


def cannot_come(address: str, error: OSError) -> TransferError:
    """Return what is said of an address at which nothing can listen.

    Args:
        address: At which the servers should meet the trainer.
        error: What the system says.
    """
    return TransferError(
        f"servers cannot come to {address} for weights ({error.strerror or error}): set "
        "weight_transfer.init_args.address to an address of this machine"
    )


def is_local(server: str) -> bool:
    """True for the address of a server on this machine."""
    return is_loopback(urlsplit(server).hostname or "")


def is_loopback(host: str) -> bool:
    """True for names of a machine that it alone knows itself by."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
