"""A vLLM plugin by which a server that computes on the CPU can be sent weights over gloo."""

from pathlib import Path

from inference.server_process import plugin

NAME = "sightsound_gloo"
BACKEND = "gloo"


def register() -> None:
    """Name the engine of :mod:`inference.weight_transfer.gloo_receiver`; vLLM calls this in each of its processes."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, "inference.weight_transfer.gloo_receiver", "GlooReceiver")


def install(directory: Path) -> Path:
    """Write the metadata by which vLLM finds the plugin; the result belongs on the server's ``PYTHONPATH``."""
    return plugin.install(directory, NAME, f"{__name__}:register")
