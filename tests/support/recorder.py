"""A module that notes which questions it gets."""

from typing import Any

import torch
from lightning.pytorch import LightningModule

from datamodules.batching.batch import AudioQABatch


class Recorder(LightningModule):
    """Notes the ids of the questions that it gets."""

    def __init__(self, automatic: bool = True) -> None:
        super().__init__()
        self.automatic_optimization = automatic
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, int, tuple[str, ...]]] = []
        self.evaluated: list[str] = []

    def training_step(self, batch: AudioQABatch, batch_idx: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch_idx, tuple(question.id for question in batch.questions)))
        loss = self.weight * batch.features.mean()
        if not self.automatic_optimization:
            self.manual_backward(loss)
            self.optimizers().step()  # type: ignore[union-attr]
        return loss

    def validation_step(self, batch: AudioQABatch, batch_idx: int) -> None:
        self.evaluated.extend(question.id for question in batch.questions)
        self.log("val/accuracy", 0.0, batch_size=len(batch))

    test_step = validation_step
    predict_step = validation_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)
