"""Supervised fine-tuning on verified traces (paper, section 3.2, Eq. 1)."""

from typing import Any

import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT

from datamodules.batch import AudioQABatch
from datamodules.records import UserError
from lightning_modules.losses import sft_loss
from lightning_modules.student_training import StudentTraining


class SFTModule(StudentTraining):
    """Learns to say the teacher's traces: loss on the trace's tokens only, prompt and audio masked."""

    def __init__(self, weights: str, lr: float = 5e-5, **training: Any) -> None:
        """Load the student.

        Args:
            weights: Hub name or directory of a Qwen2-Audio or Qwen2.5-Omni checkpoint.
            lr: Peak learning rate of AdamW.
            **training: How the student is loaded and updated.
        """
        super().__init__(weights, lr, **training)

    def training_step(self, batch: AudioQABatch, batch_idx: int) -> STEP_OUTPUT:
        """Eq. 1 on the batch's traces."""
        targets = batch.completions
        if targets is None:
            raise UserError("the batch has no target traces: train SFT on datamodules.traces.TracesDataModule")
        scores = self.student.completion_logprobs(batch)
        tokens = targets.mask.sum().float()
        # every rank divides by the same number, so that the mean over ranks is the mean over all tokens
        shared = self.trainer.strategy.reduce(tokens.clone(), reduce_op="mean")
        loss = sft_loss(scores.logprobs, targets.mask, shared)
        entropy = scores.entropy.sum() / tokens.clamp(min=1)
        metrics = {"train/loss": loss.detach(), "train/tokens": tokens, "train/entropy": entropy}
        metrics["lr"] = torch.tensor(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        self.log_dict(metrics, sync_dist=True, batch_size=len(batch))
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(batch))
        return loss
