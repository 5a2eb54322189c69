"""What a GPU's weights need: a copy in pinned memory, which is kept for the next checkpoint."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from callbacks.checkpoints.folder_writer import FolderWriter
from lightning_modules.models.checkpoints.sharded_checkpoint import WEIGHT, ShardedCheckpoint


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.usefixtures("one_rank")
def test_from_a_gpu(tmp_path: Path) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    writer = FolderWriter(device, timedelta(seconds=60))
    mesh = init_device_mesh("cuda", (1,))
    value = DTensor.from_local(torch.ones(1000, 1000, device=device), mesh, [Shard(0)], run_check=False)
    places = set()
    for number in range(3):
        writer.write({WEIGHT + "w": value}, {}, tmp_path / "last.ckpt", background=number > 0)
        value.to_local().fill_(number + 2.0)
        writer.wait()
        assert ShardedCheckpoint(tmp_path / "last.ckpt").weight("w").unique().item() == number + 1
        places |= {copy.data_ptr() for copy in writer._copies.values()}
    assert len(places) == 1 and writer._copies[WEIGHT + "w"].is_pinned()
    restored = DTensor.from_local(torch.zeros(1000, 1000, device=device), mesh, [Shard(0)], run_check=False)
    ShardedCheckpoint(tmp_path / "last.ckpt").read({WEIGHT + "w": restored})
    assert restored.to_local().unique().item() == 3.0
