"""A module that takes its time over each batch and says which process it runs in."""

import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.demos.boring_classes import BoringModel


class Patient(BoringModel):
    """Writes its process id below a folder in its third batch.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = Path(folder)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
        if batch_idx == 2:
            (self.folder / f"rank-{self.global_rank}").write_text(str(os.getpid()))
        time.sleep(0.1)
        return super().training_step(batch, batch_idx)
