"""Ways for weights, under the names by which a configuration has them beside the rollout callback."""

from inference.weight_transfer.gloo import GlooTransfer
from inference.weight_transfer.ipc import IPCTransfer
from inference.weight_transfer.nccl import NCCLTransfer

__all__ = ["GlooTransfer", "IPCTransfer", "NCCLTransfer"]
