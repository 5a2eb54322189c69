"""Supervised fine-tuning on verified traces (paper, section 3.2, Eq. 1)."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from datamodules.batching.batch import AudioQABatch
from datamodules.batching.micro_batches import micro_batches
from lightning_modules.objectives.losses import sft_loss
from lightning_modules.student_training import StudentTraining, TrainingSettings, bound_gradients, refuse_lost_gradients
from runtime.errors import UserError, refuse_below
from runtime.settings import takes


@dataclass(frozen=True, kw_only=True)
class SFTSettings(TrainingSettings):
    """Supervised fine-tuning, beside what is said in :class:`.student_training.TrainingSettings`.

    Attributes:
        lr: Peak learning rate of AdamW.
        micro_batch_size: Traces in one forward and backward pass at most, whichever questions they belong to; the whole
            batch unless given. It bounds memory and changes nothing else.
    """

    lr: float = 5e-5
    micro_batch_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_below(1, "model.", micro_batch_size=self.micro_batch_size)


class SFTModule(StudentTraining):
    """Learns to say the teacher's traces: loss on the trace's tokens only, prompt and audio masked.

    An optimizer step follows the mean over all tokens it is made of: those of all ranks and of all batches that
    ``trainer.accumulate_grad_batches`` gathers, however long each trace is and however it is split into micro-batches.
    """

    settings: SFTSettings

    @takes(SFTSettings)
    def __init__(self, *weights: Any, **settings: Any) -> None:
        """Load the student, as :class:`SFTSettings` describes."""
        super().__init__(SFTSettings(*weights, **settings))
        self._gathered: Tensor | None = None
        """Tokens (mean over ranks) of the batches whose gradients have been gathered for the coming optimizer step."""
        self._norms: list[tuple[int, Tensor]] = []
        """Number of each step that nobody has looked at yet, and the norm of its gradients, on the device."""

    def training_step(self, batch: AudioQABatch, batch_idx: int) -> STEP_OUTPUT:
        """Eq. 1 on the batch's traces."""
        targets = batch.completions
        if targets is None:
            raise UserError("the batch has no target traces: train SFT on datamodules.TracesDataModule")
        tokens = torch.full((), float(targets.lengths.sum()), device=self.device)  # made there, not sent
        # every rank divides by the same number, so that the mean over ranks is the mean over all tokens
        shared = self.trainer.strategy.reduce(tokens.clone(), reduce_op="mean")
        divisor = self._gather(shared, batch_idx)
        self.refuse_lost_scale()
        batches_of_step = self.trainer.accumulate_grad_batches
        nll = torch.zeros((), device=self.device)
        entropy = torch.zeros((), device=self.device)
        shares = micro_batches(batch, self.settings.micro_batch_size)
        rounds = self._rounds(len(shares))
        for turn in range(rounds):
            part = shares[min(turn, len(shares) - 1)]
            assert part.completions is not None
            scores = self.student.completion_logprobs(part)
            loss = sft_loss(scores.logprobs, part.completions.mask, divisor)
            if turn >= len(shares):
                loss = loss * 0.0  # another rank has more to do, and with sharded weights all take part in it
            else:
                nll += loss.detach()
                entropy += scores.entropy.sum()
            if turn < rounds - 1:
                with self.unsynchronised():
                    self.trainer.strategy.backward(loss, None)
        if divisor is not shared:
            nll = nll * (divisor / shared)
        metrics = {"train/loss": nll, "train/tokens": tokens, "train/entropy": entropy / tokens.clamp(min=1)}
        lr = float(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        metrics["lr"] = torch.full_like(nll, lr)  # made on the device: Lightning would send a number, and wait for it
        self.log_dict(metrics, sync_dist=True, batch_size=len(batch))
        self.log("loss", nll, prog_bar=True, logger=False, batch_size=len(batch))
        return loss * batches_of_step if batches_of_step > 1 else loss  # Lightning divides by it

    @override
    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Do nothing: the step has zeroed them before its first micro-batch, Lightning would after its last."""

    @override
    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Scale the gradients down to ``trainer.gradient_clip_val``, and remember their norm."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        by_value = gradient_clip_algorithm == GradClipAlgorithmType.VALUE
        norm = bound_gradients(parameters, None if by_value else gradient_clip_val)
        if by_value:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        self.log("train/grad_norm", norm)
        self._norms.append((self.global_step, norm))

    @override
    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Any, batch_idx: int) -> None:
        """Look at the gradients where Lightning reads the metrics: the device is waited for then anyway."""
        trainer: Any = self.trainer
        if len(self._norms) >= (trainer.log_every_n_steps or 1):
            self._look_at_gradients()

    @override
    def on_validation_start(self) -> None:
        """Look at the gradients before anything is made of the weights."""
        self._look_at_gradients()

    @override
    def on_train_end(self) -> None:
        """Look at the last gradients."""
        self._look_at_gradients()

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write no weights that a gradient has spoilt."""
        self._look_at_gradients()
        super().on_save_checkpoint(checkpoint)

    def _look_at_gradients(self) -> None:
        seen, self._norms = self._norms, []
        if seen and self.loss_scale is None:  # the scaler of float16 leaves such steps out
            refuse_lost_gradients(torch.stack([norm for _, norm in seen]).tolist(), [step for step, _ in seen])

    def _gather(self, tokens: Tensor, batch_idx: int) -> Tensor:
        """Make room for a batch among the gradients of the coming optimizer step.

        Args:
            tokens: The batch's tokens, mean over ranks.
            batch_idx: Its place in the epoch.

        Returns:
            The number that the sum over its tokens is to be divided by: the tokens of all batches gathered so far.
        """
        if batch_idx % self.trainer.accumulate_grad_batches == 0 or self._gathered is None:
            self.optimizers(use_pl_optimizer=False).zero_grad()  # type: ignore[union-attr]
            self._gathered = tokens
            return tokens
        behind, self._gathered = self._gathered, self._gathered + tokens
        share = behind / self._gathered
        for _, parameter in self.student.trainable_parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(share)
        return self._gathered

    def _rounds(self, shares: int) -> int:
        """Return how many passes this rank takes part in: with sharded weights as many as the busiest rank."""
        if not self.student.sharded or self.settings.micro_batch_size is None:
            return shares
        most = self.trainer.strategy.reduce(torch.tensor(float(shares), device=self.device), reduce_op="max")
        return int(most)
