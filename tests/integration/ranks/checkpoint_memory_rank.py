"""What one of two ranks holds in main memory beside the run while it writes and reads checkpoints of 0.4 GB or more."""

import ctypes
import json
import os
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import skip_init

from callbacks.checkpoints.sharded_strategy import ShardedStrategy
from tests.integration.ranks.sharded_memory_rank import Peak, anonymous

LAYERS, WIDTH = int(os.environ.get("LAYERS", 8)), 2048
M_MMAP_THRESHOLD = -3


class Wide(lightning.LightningModule):
    """Matrices of 16 MiB, a layer each; 64 of them are a model of 1 GB (``LAYERS=64``)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(skip_init(nn.Linear, WIDTH, WIDTH, bias=False) for _ in range(LAYERS))


def main(folder: str) -> None:
    """Write ``rank.RANK.json``: bytes of this rank's part, and the most that was held beside the run by act."""
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)  # what is freed goes back, so that what is held is seen
    distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    module = Wide()
    for layer in module.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    strategy = ShardedStrategy(2, 1)
    strategy.parallel_devices = [torch.device("cpu")] * 2
    strategy.cluster_environment = LightningEnvironment()
    strategy._lightning_module = strategy.model = module
    optimizer = torch.optim.AdamW(module.parameters())
    strategy.optimizers = [optimizer]
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.zero_grad()
    part = sum(p.to_local().nbytes for p in module.parameters()) * 3  # type: ignore[attr-defined]

    def dump() -> dict[str, Any]:
        return {
            "state_dict": strategy.lightning_module_state_dict(),
            "optimizer_states": [strategy.optimizer_state(optimizer)],
        }

    def peak_of(act: Any) -> int:
        peak = Peak()
        peak.start()
        act()
        return peak.stop()

    def in_the_background() -> None:
        strategy.save(dump(), Path(folder) / "last.ckpt", background=True)
        strategy.writer.wait()

    def load() -> None:
        checkpoint = strategy.load_checkpoint(Path(folder) / "last.ckpt")
        strategy.load_model_state_dict(checkpoint)
        optimizer.state.clear()
        strategy.load_optimizer_state_dict(checkpoint)

    found = {"part": part}
    found["at once"] = peak_of(lambda: strategy.save(dump(), Path(folder) / "last.ckpt", background=False))
    before = anonymous()
    found["in the background"] = peak_of(in_the_background)
    found["kept afterwards"] = anonymous() - before
    found["read"] = peak_of(load)
    Path(folder, f"rank.{os.environ['RANK']}.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()
