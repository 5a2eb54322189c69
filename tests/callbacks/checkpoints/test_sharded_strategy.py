"""A sharded run goes on from what another kind of run has written, with each moment at its own weight."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from callbacks.checkpoints.checkpointing import AtomicCheckpointIO, LastCheckpoint
from callbacks.checkpoints.sharded_strategy import ShardedStrategy

pytestmark = pytest.mark.usefixtures("one_rank")


class Net(lightning.LightningModule):
    """A frozen layer, and trained ones whose optimizer takes matrices first and vectors then, as the students' does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))
        self.layers[0].requires_grad_(False)
        self.losses: list[float] = []

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            fully_shard(self, mesh=self.device_mesh["data_parallel"])

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.strict_loading = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = (self(batch) - 1).square().mean()
        self.losses.append(float(loss))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.AdamW(
            [{"params": [p for p in trained if p.ndim > 1]}, {"params": [p for p in trained if p.ndim < 2]}], lr=0.1
        )


def fit(root: Path, steps: int, how: str, resume: Path | None = None, asynchronous: bool = False) -> list[float]:
    """Train on until so many steps; ``how`` the weights are kept: whole, or spread with one file or many."""
    module = Net()
    strategy = ModelParallelStrategy(1, 1, save_distributed_checkpoint=how == "many", process_group_backend="gloo")
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        strategy="auto" if how == "whole" else ShardedStrategy.of(strategy),
        plugins=[AtomicCheckpointIO()],
        default_root_dir=root,
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[LastCheckpoint(1, asynchronous=asynchronous)],
    )
    batch = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    trainer.fit(module, DataLoader([batch] * 6, batch_size=None), ckpt_path=resume)
    return module.losses


def test_any_goes_on_from_any(tmp_path: Path) -> None:
    expected = fit(tmp_path / "whole", 5, "whole")
    assert len(set(expected)) == 5
    for before in ("whole", "one", "many"):
        assert fit(tmp_path / before, 2, before, asynchronous=True) == pytest.approx(expected[:2], abs=1e-6)
        last = tmp_path / before / "checkpoints" / "last.ckpt"
        assert last.is_dir() == (before == "many")
        for after in ("whole", "one", "many"):
            found = fit(tmp_path / f"{before}_{after}", 5, after, last, asynchronous=True)
            assert found == pytest.approx(expected[2:], abs=1e-6), (before, after)
