"""Moments of 8 bits go through checkpoints of sharded and of whole weights without a change."""

from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.data import DataLoader

from callbacks.checkpoints.checkpointing import AtomicCheckpointIO, LastCheckpoint
from callbacks.checkpoints.sharded_strategy import ShardedStrategy

pytest.importorskip("torchao.optim", reason="torchao is not installed")
from lightning_modules.optimizers import make_optimizer

pytestmark = pytest.mark.usefixtures("one_rank")


class Net(lightning.LightningModule):
    """A matrix of 4,096 weights, whose moments have 8 bits, and a vector, whose moments have 32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(64, 64)
        self.losses: list[float] = []

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            fully_shard(self, mesh=self.device_mesh["data_parallel"])

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.layer(batch)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = (self(batch).tanh() - 0.5).square().mean()
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer("adamw8bit", [{"params": list(self.parameters()), "weight_decay": 0.0}], 0.01, False)


def fit(root: Path, steps: int, how: str, resume: Path | None = None, asynchronous: bool = False) -> Net:
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
    batch = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    with torch.compiler.set_stance("force_eager"):  # torchao's step would want a compiler
        trainer.fit(module, DataLoader([batch] * 6, batch_size=None), ckpt_path=resume)
    state = trainer.optimizers[0].state
    module.moments = [  # type: ignore[assignment]
        value.to_local() if isinstance(value, DTensor) else value
        for weight in module.parameters()
        for kind, value in state[weight].items()
        if kind != "step"
    ]
    return module


@pytest.mark.parametrize("before", ["whole", "many"])
def test_resumed_it_is_the_same_run(tmp_path: Path, before: str) -> None:
    expected = fit(tmp_path / "whole", 5, "whole")
    assert len(set(expected.losses)) == 5
    for asynchronous in (False, True) if before == "many" else (False,):
        root = tmp_path / f"{before}_{asynchronous}"
        fit(root, 2, before, asynchronous=asynchronous)
        for after in ("whole", "many"):
            found = fit(tmp_path / f"{root.name}_{after}", 5, after, root / "checkpoints" / "last.ckpt")
            assert found.losses == expected.losses[2:], (root.name, after)
            for moment, wanted in zip(found.moments, expected.moments, strict=True):
                assert is_traceable_wrapper_subclass(moment) == is_traceable_wrapper_subclass(wanted)
                for part in wanted.__tensor_flatten__()[0] if is_traceable_wrapper_subclass(wanted) else ():
                    assert torch.equal(getattr(moment, part), getattr(wanted, part)), part
