"""Weights from the trainer's GPU to those of servers, by vLLM's own NCCL engines."""

import socket
import time
from typing import Any

import torch

from inference.weight_transfer.receivers import Receivers
from inference.weight_transfer.transfer import (
    AFTERMATH_SECONDS,
    TransferError,
    WeightStream,
    WeightTransfer,
    cannot_come,
    check_reachable,
)
from runtime.ahead import Ahead


class NCCLTransfer(WeightTransfer):
    """Sends weights from the GPU of the trainer's rank 0 to the GPUs of servers, which are others.

    vLLM makes a communicator of its own between them, beside the one of the trainer's ranks. It cannot be left by one
    side alone: where a server or the trainer is killed in mid-transfer the others wait in NCCL, so that the run ends
    after ``seconds`` and the servers must be started anew.
    """

    name = "nccl"

    def __init__(self, address: str = "127.0.0.1", bucket_mib: int = 512, seconds: float = 300.0) -> None:
        """Set address, sizes and limits.

        Args:
            address: This machine's address in the network of the servers, which come to a free port of it; whoever
                reaches it there could read the weights.
            bucket_mib: Size of the buckets in which weights travel, in MiB of each GPU's memory; two are under way.
            seconds: How long the servers may take to come, and to receive all weights.
        """
        super().__init__(bucket_mib, seconds)
        self.address = address

    def check(self, device: torch.device, ranks: int, servers: list[str]) -> None:
        """Refuse weights that are not on a GPU, and an address at which the servers cannot find the trainer."""
        if device.type != "cuda":
            raise TransferError(
                f"weight_transfer nccl sends from GPU to GPU, and the trainer's weights are on the {device.type}: "
                "leave weight_transfer away, for files, or use callbacks.GlooTransfer for servers on the CPU"
            )
        check_reachable(self.address, servers)

    def meet(self, receivers: Receivers, weights: WeightStream) -> "NCCLSender":
        """Meet the servers."""
        return NCCLSender(self, receivers, weights)

    def init_info(self, receivers: Receivers, weights: WeightStream, port: int) -> Any:
        """Return what vLLM's factory wants to know of the trainer's side.

        Args:
            receivers: The servers.
            weights: What will be sent.
            port: Where the servers come to.

        Raises:
            TransferError: vLLM is not in this environment.
        """
        try:
            from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        except ImportError as error:
            raise missing_vllm(self.name, error) from None
        return NCCLTrainerInitInfo(
            rank=0,
            master_address=self.address,
            master_port=port,
            world_size=receivers.world_size,
            packed=True,
            packed_buffer_size_bytes=self.bucket_for(weights.shapes),
        )


class NCCLSender:
    """vLLM's engine on the trainer's side, with time limits: what NCCL waits for has none."""

    def __init__(self, way: NCCLTransfer, receivers: Receivers, weights: WeightStream) -> None:
        """Meet the servers.

        Args:
            way: Address, sizes and limits.
            receivers: The servers.
            weights: What will be sent.

        Raises:
            TransferError: One did not come, or NCCL cannot be used.
        """
        self.receivers = receivers
        self.seconds = way.seconds
        self.device = torch.cuda.current_device()
        init_info = way.init_info(receivers, weights, free_port(way.address))
        self._engine = self._limited(lambda: build_engine(init_info, receivers, weights), "did not come")

    def send_weights(self) -> None:
        """Send all weights: the receivers start, receive and finish.

        Raises:
            TransferError: A server went away or took too long.
        """
        self._limited(self._engine.send_weights, "did not receive the weights")

    def shutdown(self) -> None:
        """Leave the servers."""
        self._engine.shutdown()

    def _limited(self, work: Any, what: str) -> Any:
        """Do something on this GPU, and give it up when a server has failed or time is over."""

        def on_device() -> Any:
            with torch.cuda.device(self.device):  # a thread begins on the first GPU
                return work()

        attempt, deadline = Ahead(on_device), time.monotonic() + self.seconds
        while not attempt.join(0.05):
            lost = self.receivers.problem is not None and not attempt.join(AFTERMATH_SECONDS)
            if lost or time.monotonic() > deadline:
                urls = ", ".join(client.url for client in self.receivers.clients)
                why = self.receivers.problem or f"they {what} within {self.seconds:.0f} s"
                raise TransferError(
                    f"weights cannot be sent to {urls} over NCCL: {why}. NCCL cannot be interrupted: start the servers "
                    "anew and resume with --ckpt_path last; NCCL_DEBUG=INFO on both sides shows what it waits for"
                )
        return attempt.result()


def build_engine(init_info: Any, receivers: Receivers, weights: WeightStream) -> Any:
    """Have vLLM's factory make the trainer's side of a way.

    Args:
        init_info: What it wants to know.
        receivers: The servers, which are met.
        weights: What will be sent.
    """
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    source: Any = weights
    return WeightTransferTrainerFactory.trainer_init(init_info, client=receivers, source=source)


def missing_vllm(name: str, error: ImportError) -> TransferError:
    """Return what is said where the trainer's environment has no vLLM that can do it."""
    return TransferError(
        f"weight_transfer {name} needs vLLM in the trainer's environment too ({error}): install it there, or leave "
        "weight_transfer away, for files"
    )


def free_port(address: str) -> int:
    """Return a port of an address on which nothing listens.

    Args:
        address: Of this machine.

    Raises:
        TransferError: It is none.
    """
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as tried:
        try:
            tried.bind((address, 0))
        except OSError as error:
            raise cannot_come(address, error) from None
        return int(tried.getsockname()[1])
