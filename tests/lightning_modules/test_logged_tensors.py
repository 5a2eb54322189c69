"""Whatever is logged lies where the module is: NCCL reduces nothing else."""

import copy
from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_modules.grpo import GRPOModule
from lightning_modules.sft import SFTModule
from tests.support.host_tensors import HostTensors, watch_logged
from tests.support.students import make_batch


def fit(module: lightning.LightningModule, training: list, validation: list, root: Path) -> None:
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        default_root_dir=root,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loaders = [DataLoader(batches, batch_size=None) for batches in (training, validation)]
    with HostTensors():
        trainer.fit(module, *loaders)


class Faulty(lightning.LightningModule):
    """Logs one number that was made in main memory, one that was brought there, and good ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = self.layer(batch).mean()
        values = {"lr": torch.tensor(0.1) * 2, "copied": loss.detach().cpu(), "loss": loss.detach(), "number": 0.1}
        self.log_dict(values | {"made": torch.tensor(0.1, device=self.device), "summed": torch.tensor(0.1) + loss})
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_check_finds_what_is_in_main_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = watch_logged(monkeypatch)
    fit(Faulty(), [torch.ones(1)], [], tmp_path)
    assert {name for name, host in seen.items() if host} == {"lr", "copied"}
    assert {"loss", "number", "made", "summed"} < set(seen)


@pytest.mark.parametrize("make", [SFTModule, GRPOModule])
def test_nothing_that_is_logged_is_in_main_memory(
    weights, processor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make
) -> None:
    seen = watch_logged(monkeypatch)
    batch = make_batch(processor, [1.0, 0.9], [[4, 7], [2, 5]])
    fit(make(weights, micro_batch_size=1), [batch], [copy.copy(batch)], tmp_path)
    assert {"lr", "train/loss", "train/entropy", "val/accuracy", "val/questions"} < set(seen)
    assert not [name for name, host in seen.items() if host]
