"""What one of two ranks holds in main memory while it begins GRPO on sharded weights: ``WEIGHTS STORE RANK HOW``."""

import os
import re
import threading
import time
from pathlib import Path

from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

from lightning_modules.grpo import GRPOModule
from lightning_modules.models.checkpoints.loading import loading


def anonymous() -> int:
    """Return bytes of main memory that are this process's own: pages of mapped files can be let go at any time."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


class Peak(threading.Thread):
    """Looks again and again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.begun = self.most = anonymous()
        self.ended = False

    def run(self) -> None:
        while not self.ended:
            self.most = max(self.most, anonymous())
            time.sleep(0.001)

    def stop(self) -> int:
        """Return how many bytes more than at first there were at any time."""
        self.ended = True
        self.join()
        return max(self.most, anonymous()) - self.begun


def main(weights: str, how: str, output: str) -> None:
    """Begin, and write the most that was held, the model's size and the fingerprint of what is frozen."""
    distributed.init_process_group("gloo")
    peak = Peak()
    peak.start()
    with loading(deferred=how == "deferred"):
        module = GRPOModule(weights)
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    module._device_mesh = mesh  # as ModelParallelStrategy does
    module.configure_model()
    most = peak.stop()
    whole = sum(p.numel() * p.element_size() for p in module.student.parameters())
    assert module.reference is not None and module.reference.sharded
    Path(f"{output}.{os.environ['RANK']}").write_text(f"{most} {whole} {module._frozen}")
    distributed.barrier()
    distributed.destroy_process_group()
