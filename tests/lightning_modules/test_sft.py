"""One optimizer step of SFT follows the mean over all tokens it is made of, however they are gathered."""

from pathlib import Path

import lightning
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.batching.batch import AudioQABatch
from lightning_modules.objectives.losses import sft_loss
from lightning_modules.sft import SFTModule
from runtime.errors import UserError
from tests.support.students import make_batch

LENGTHS = [[40, 3, 0], [2, 0, 0], [9, 1, 25], [4, 6, 0]]


@pytest.fixture
def batch(processor) -> AudioQABatch:
    """Four questions with one to three traces of 1 to 40 tokens."""
    return make_batch(processor, [2.0, 0.9, 1.4, 1.0], LENGTHS)


class Gradients(lightning.Callback):
    """Keeps the gradient of each optimizer step, and what was logged."""

    def __init__(self) -> None:
        self.gradients: list[Tensor] = []
        self.losses: list[float] = []

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        self.gradients.append(torch.cat([p.grad.flatten() for _, p in module.student.trainable_parameters()]))

    def on_train_batch_end(self, trainer, *_) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


def gradients(module: SFTModule, batches: list[AudioQABatch], root: Path, **settings) -> Gradients:
    seen = Gradients()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=[seen],
        default_root_dir=root,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return seen


def direct(module: SFTModule, batch: AudioQABatch) -> Tensor:
    """The gradient of Eq. 1 over the whole batch, by itself."""
    module.student.zero_grad()
    sft_loss(module.student.completion_logprobs(batch).logprobs, batch.completions.mask).backward()
    found = torch.cat([p.grad.flatten().clone() for _, p in module.student.trainable_parameters()])
    module.student.zero_grad()
    return found


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("size", [None, 1, 2, 3])
def test_micro_batches_and_accumulation_give_the_gradient_of_the_whole(weights, batch, tmp_path, size) -> None:
    module = SFTModule(weights, lr=0.0, micro_batch_size=size)
    expected = direct(module, batch)
    assert relative(gradients(module, [batch], tmp_path).gradients[0], expected) < 1e-6
    singles = [batch[i : i + 1] for i in range(4)]
    gathered = gradients(module, singles, tmp_path, accumulate_grad_batches=4)
    assert len(gathered.gradients) == 1
    assert relative(gathered.gradients[0], expected) < 1e-6
    # each batch's loss is its own mean over tokens
    with torch.no_grad():
        own = [sft_loss(module.student.completion_logprobs(s).logprobs, s.completions.mask).item() for s in singles]
    assert gathered.losses == pytest.approx(own, rel=1e-5)


def test_a_window_that_the_epoch_cuts_short_is_a_mean_too(weights, batch, tmp_path) -> None:
    module = SFTModule(weights, lr=0.0)
    expected = [direct(module, part) for part in (batch[0:3], batch[3:4])]
    found = gradients(module, [batch[i : i + 1] for i in range(4)], tmp_path, accumulate_grad_batches=3).gradients
    assert [relative(f, e) < 1e-6 for f, e in zip(found, expected, strict=True)] == [True, True]


def test_micro_batches_below_one_are_refused(weights) -> None:
    with pytest.raises(UserError, match="micro_batch_size is 0"):
        SFTModule(weights, micro_batch_size=0)
