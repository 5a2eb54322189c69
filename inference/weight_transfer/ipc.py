"""Weights to a server on the trainer's own GPU, by vLLM's own IPC engines: no byte leaves the device."""

import base64
import pickle
from typing import Any

import torch

from inference.vllm.client import ServerRefused, VLLMClient
from inference.weight_transfer.buckets import largest
from inference.weight_transfer.nccl import build_engine, missing_vllm
from inference.weight_transfer.receivers import Receivers, TransferBroken
from inference.weight_transfer.transfer import Sender, TransferError, WeightStream, WeightTransfer, is_local


class IPCTransfer(WeightTransfer):
    """Hands weights to a server on the same GPU through a bucket in its memory."""

    name = "ipc"

    def __init__(self, bucket_mib: int = 512, seconds: float = 300.0) -> None:
        """Set sizes and limits.

        Args:
            bucket_mib: Size of the bucket in which weights are handed over, in MiB of the GPU's memory; as large as the
                largest weight at least.
            seconds: How long the server may take for one bucket, and to begin and to finish.
        """
        super().__init__(bucket_mib, seconds)

    def check(self, device: torch.device, ranks: int, servers: list[str]) -> None:
        """Refuse weights that are not on one GPU of this machine, with the server."""
        if device.type != "cuda":
            raise TransferError(
                f"weight_transfer ipc is for a server on the trainer's GPU, and its weights are on the {device.type}: "
                "leave weight_transfer away, for files, or use callbacks.GlooTransfer with a server on the CPU"
            )
        if ranks > 1:
            raise TransferError(
                f"weight_transfer ipc is for one trainer process beside its server on one GPU, and there are {ranks}: "
                "use callbacks.NCCLTransfer with servers on GPUs of their own, or leave weight_transfer away, for files"
            )
        for server in servers:
            if not is_local(server):
                raise TransferError(
                    f"weight_transfer ipc is for a server on the trainer's GPU, and {server} is on another machine: "
                    "use callbacks.NCCLTransfer"
                )

    def receivers(self, clients: list[VLLMClient]) -> "IPCReceivers":
        """Return servers as receivers of memory handles."""
        return IPCReceivers(clients, self.seconds)

    def meet(self, receivers: Receivers, weights: WeightStream) -> Sender:
        """Meet the server."""
        sender: Sender = build_engine(self.init_info(weights), receivers, weights)
        return sender

    def init_info(self, weights: WeightStream) -> Any:
        """Return what vLLM's factory wants to know of the trainer's side.

        Args:
            weights: What will be sent.

        Raises:
            TransferError: vLLM is not in this environment.
        """
        try:
            from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
        except ImportError as error:
            raise missing_vllm(self.name, error) from None
        size = max(self.bucket_bytes, largest(weights.shapes))  # each weight must fit
        return IPCTrainerInitInfo(rank=0, packed=True, packed_buffer_size_bytes=size)


class IPCReceivers(Receivers):
    """Servers that are told where in the GPU's memory weights lie."""

    def update_weights(self, update_info: Any) -> None:
        """Have the servers read one bucket; memory handles travel as vLLM's own client sends them."""
        fields = dict(update_info)
        handles = fields.pop("ipc_handles", None)
        if handles is not None:
            fields["ipc_handles_pickled"] = base64.b64encode(pickle.dumps(handles)).decode("ascii")
        try:
            super().update_weights(fields)
        except TransferBroken as error:
            if "IPC handle not found" in str(error):
                raise ServerRefused(
                    f"a rollout server is not on the trainer's GPU, which weight_transfer ipc needs ({error}): use "
                    "callbacks.NCCLTransfer, or start both with the same CUDA_VISIBLE_DEVICES"
                ) from None
            raise
