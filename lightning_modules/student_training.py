"""What SFT and GRPO share: AdamW with warm-up, and the precision that a small learning rate needs."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from lightning_modules.audio_qa import AudioQASettings, StudentModule
from lightning_modules.models.student import Student
from lightning_modules.models.trained_parts import describe_trained_parts
from lightning_modules.optimizers import check_optimizer, make_optimizer, set_again, settings_of
from runtime.errors import UserError, refuse_below


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(AudioQASettings):
    """How AdamW updates a student; how that is loaded is said in :class:`.models.student_settings.StudentSettings`.

    Attributes:
        lr: Peak learning rate of AdamW.
        weight_decay: Weight decay of matrices; vectors (norms, biases) are not decayed.
        warmup_steps: Optimizer steps until ``lr`` is reached.
        schedule: A schedule of ``transformers.get_scheduler``: constant_with_warmup, linear, cosine, ...
        allow_low_precision_weights: Train weights that are not float32 although small updates are lost in them.
        optimizer: adamw, or adamw8bit, whose moments take 8 bits each in place of 32 (by torchao, which must be
            installed for it).
    """

    lr: float
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule: str = "constant_with_warmup"
    allow_low_precision_weights: bool = False
    optimizer: str = "adamw"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_optimizer(self.optimizer)
        refuse_below(0, "model.", lr=self.lr, weight_decay=self.weight_decay, warmup_steps=self.warmup_steps)


class StudentTraining(StudentModule):
    """A student whose weights are updated by AdamW."""

    settings: TrainingSettings
    _own_settings: Sequence[dict[str, float]] = ()

    def on_fit_start(self) -> None:
        """Refuse weights in which the updates would be lost, and say which ones are trained."""
        refuse_low_precision(self.student, self.settings.lr, self.settings.allow_low_precision_weights)
        rank_zero_info(describe_trained_parts(self.student))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over the trained weights and a schedule that steps with it."""
        trained = [p for _, p in self.student.trainable_parameters()]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.settings.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = make_optimizer(
            self.settings.optimizer,
            [group for group in groups if group["params"]],
            self.settings.lr,
            scaled=self.loss_scale is not None,
        )
        steps = self.trainer.max_steps if self.trainer.max_steps > 0 else None
        try:
            scheduler = get_scheduler(self.settings.schedule, optimizer, self.settings.warmup_steps, steps)
        except ValueError as error:
            raise UserError(
                f"model.schedule {self.settings.schedule!r} (with trainer.max_steps {steps}): {error}"
            ) from error
        self._own_settings = settings_of(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}  # type: ignore

    def on_train_start(self) -> None:
        """Let this run's learning rate and weight decay count: a checkpoint brings those that it was trained with."""
        optimizer, scheduler = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        if isinstance(optimizer, Optimizer) and isinstance(scheduler, LambdaLR):
            set_again(optimizer, scheduler, self._own_settings)

    @property
    def loss_scale(self) -> float | None:
        """What float16's scaler multiplies the loss by, None where there is none (float32 and bfloat16)."""
        scaler: Any = getattr(self.trainer.precision_plugin, "scaler", None)
        return None if scaler is None else float(scaler.get_scale())

    def refuse_lost_scale(self) -> None:
        """Stop where float16's scaler finds nothing that fits: it would leave out step after step without a word.

        Raises:
            UserError: The scale has fallen below 1, so it is not the scaling that overflows.
        """
        scale = self.loss_scale
        if scale is not None and scale < 1:
            raise UserError(
                f"gradients overflow float16 whatever the loss is scaled by (now {scale:g}) at step "
                f"{self.global_step}: set trainer.precision to bf16-mixed or 32-true"
            )

    @contextlib.contextmanager
    def unsynchronised(self) -> Iterator[None]:
        """Keep gradients of a micro-batch on this rank; the last one's backward pass sums over the ranks.

        Where ranks share the weights ``sharding.reduce_gradients`` decides: to keep whole gradients would take 34 GB of
        float32 for 8.4 B parameters, which sharding is there to avoid, and spare only one of the three times that each
        micro-batch sends the model (weights for the forward and the backward pass, gradients); those of adapters are
        small.
        """
        if self.student.sharded:
            wait = self.settings.sharding.keeps_gradients(adapters=self.student.lora is not None)
            self.student.reduce_gradients(not wait)
            try:
                yield
            finally:
                self.student.reduce_gradients(True)
            return
        strategy: Any = self.trainer.strategy
        with strategy.block_backward_sync() if hasattr(strategy, "block_backward_sync") else contextlib.nullcontext():
            yield


def bound_gradients(parameters: Sequence[Tensor], limit: float | None) -> Tensor:
    """Scale gradients down to a norm, that of all of them and all ranks together.

    Args:
        parameters: Weights with gradients, sharded or whole.
        limit: The norm; None or 0 leaves them alone.

    Returns:
        Their norm before, a scalar.
    """
    if limit:
        norm = clip_grad_norm_(parameters, limit)
    else:
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).detach()


class LostGradients(UserError, FloatingPointError):
    """Gradients were not finite; the message says at which step and how to go on."""


def refuse_lost_gradients(norms: Sequence[float], steps: Sequence[int], beside: str = "") -> None:
    """End training where gradients were not finite.

    Args:
        norms: Norms of the gradients of optimizer steps.
        steps: The steps' numbers.
        beside: What else is known, in brackets.

    Raises:
        LostGradients: A norm is not finite.
    """
    bad = next(((norm, step) for norm, step in zip(norms, steps, strict=True) if not math.isfinite(norm)), None)
    if bad is not None:
        raise LostGradients(
            f"the gradient norm is {bad[0]} at step {bad[1]}{beside}: the weights of this step are in no checkpoint; "
            "lower model.lr, and go on from the last one with --ckpt_path last"
        )


def refuse_low_precision(student: Student, lr: float, forced: bool) -> None:
    """Refuse to train weights in a type that swallows the updates.

    AdamW moves a weight by about ``lr`` a step; a bfloat16 weight of 0.02 has neighbours 6e-5 away, so steps of 1e-6
    round to nothing.

    Args:
        student: The student about to be trained.
        lr: Its learning rate.
        forced: Train all the same.

    Raises:
        UserError: A trained weight is not float32 and ``forced`` is False.
    """
    low = next(((name, p.dtype) for name, p in student.trainable_parameters() if p.dtype != torch.float32), None)
    if low is not None and not forced:
        raise UserError(
            f"{low[0]} is trained in {str(low[1]).removeprefix('torch.')}, where updates of {lr:g} are rounded away: "
            "keep float32 weights (model.dtype float32 with trainer.precision bf16-mixed or 32), use LoRA, or set "
            "model.allow_low_precision_weights"
        )
