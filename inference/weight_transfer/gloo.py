"""Weights to servers that compute on the CPU, over TCP."""

from typing import TypeVar

import torch

from inference.weight_transfer.buckets import announce, pack
from inference.weight_transfer.gloo_group import GlooGroup, listen
from inference.weight_transfer.receivers import Receivers, TransferBroken
from inference.weight_transfer.transfer import (
    AFTERMATH_SECONDS,
    WeightStream,
    WeightTransfer,
    cannot_come,
    check_reachable,
)
from runtime.ahead import Ahead

T = TypeVar("T")

PIECES = 4
"""In how many a bucket travels."""


class GlooTransfer(WeightTransfer):
    """Sends weights over TCP from the trainer's main memory into that of servers on the CPU."""

    name = "gloo"

    def __init__(self, address: str = "127.0.0.1", bucket_mib: int = 128, seconds: float = 120.0) -> None:
        """Set address, sizes and limits.

        Args:
            address: This machine's address in the network of the servers, which come to a free port of it; whoever
                reaches it there could read the weights.
            bucket_mib: Size of a bucket, in MiB, which travels in pieces: one is sent while the next is filled here and
                the last one is loaded there, where vLLM keeps some until it has all of a layer.
            seconds: How long the servers may take to come, and how long one bucket and the whole update may take.
        """
        super().__init__(bucket_mib, seconds)
        self.address = address

    def check(self, device: torch.device, ranks: int, servers: list[str]) -> None:
        """Refuse an address at which the servers cannot find the trainer."""
        check_reachable(self.address, servers)

    def device_for(self, device: torch.device) -> torch.device:
        """Return the CPU."""
        return torch.device("cpu")

    def meet(self, receivers: Receivers, weights: WeightStream) -> "GlooSender":
        """Meet the servers."""
        return GlooSender(self, receivers, weights)


class GlooSender:
    """The trainer's rank 0, met with the servers' workers."""

    def __init__(self, way: GlooTransfer, receivers: Receivers, weights: WeightStream) -> None:
        """Meet them.

        Args:
            way: Address, sizes and limits.
            receivers: The servers.
            weights: What will be sent.

        Raises:
            ServerError: One did not come.
            TransferError: Nothing can listen on the address.
        """
        self.receivers = receivers
        self.weights = weights
        self.bucket_bytes = way.bucket_bytes // PIECES
        try:
            store = listen(way.address, way.seconds)
        except OSError as error:
            raise cannot_come(way.address, error) from None
        init_info = {
            "master_address": way.address,
            "master_port": store.port,
            "rank_offset": 1,
            "world_size": receivers.world_size,
            "packed_buffer_size_bytes": self.bucket_bytes,
            "seconds": way.seconds,
        }
        group = Ahead(lambda: GlooGroup(store, 0, receivers.world_size, way.address, way.seconds))
        receivers.init_weight_transfer_engine(init_info)  # names who did not come
        self._group = in_time(group, AFTERMATH_SECONDS, "the servers have come, but the trainer did not meet them")

    def send_weights(self) -> None:
        """Send all weights: the receivers start, receive and finish.

        Raises:
            TransferBroken: A server went away or took too long.
            ServerRefused: A server refused.
        """
        self.receivers.start_weight_update()
        update = Ahead(lambda: self.receivers.update_weights(announce(self.weights.shapes)))
        try:
            for place, bucket in enumerate(pack(self.weights, self.weights.shapes, self.bucket_bytes)):
                if place:
                    self._group.wait(self._given_up)
                self._group.broadcast(bucket)
                del bucket
            self._group.wait(self._given_up)
        except RuntimeError as error:
            self.shutdown()
            update.join(AFTERMATH_SECONDS)  # who has failed says so better
            raise TransferBroken(f"weights could not be sent: {str(error).splitlines()[0]}") from None
        in_time(update, self.receivers.seconds, "all weights were sent, but not all servers have loaded them")
        self.receivers.finish_weight_update()

    def _given_up(self) -> bool:
        return self.receivers.problem is not None

    def shutdown(self) -> None:
        """Leave the servers."""
        self._group.close()


def in_time(work: Ahead[T], seconds: float, otherwise: str) -> T:
    """Wait for something that may never end, and return what it returned.

    Args:
        work: It.
        seconds: How long.
        otherwise: What is said when it takes longer.

    Raises:
        TransferBroken: It takes longer.
    """
    if not work.join(seconds):
        raise TransferBroken(f"{otherwise} within {seconds:.0f} s")
    return work.result()
