"""Questions with synthetic clips, a module that answers them and a DataModule, for rollout tests."""

from functools import partial
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.batching.batch import AudioQABatch
from datamodules.batching.collate import Collator, Example
from datamodules.batching.spare_prompts import with_spares
from datamodules.prompts.questions import THINK_SHORT
from lightning_modules.distillation import OnPolicyDistillation
from lightning_modules.doors import RolloutModule, TrainingRollouts
from lightning_modules.models.student import LoRASettings, Student
from records.records import Question


def clip(seconds: float, frequency: float = 440.0) -> np.ndarray:
    """A tone with some noise."""
    time = np.arange(round(16_000 * seconds)) / 16_000
    noise = np.random.default_rng(int(frequency)).standard_normal(len(time))
    return (0.3 * np.sin(2 * np.pi * frequency * time) + 0.03 * noise).astype(np.float32)


def example(number: int, waveform: np.ndarray | None = None) -> Example:
    """Question ``number``; clips and questions differ in length."""
    question = Question(
        id=f"test/{number}",
        dataset="test",
        media=f"{number}.wav",
        text="Which sound is heard" + " now" * (number % 3) + "?",
        options=("dog", "cat", "rain", "bell"),
        answer=number % 4,
        category="which",
    )
    sound = clip(0.6 + 0.3 * (number % 4), 300.0 + 100.0 * number) if waveform is None else waveform
    return Example(question, sound, label=question.options[number % 4])


class Questions(LightningDataModule):
    """``count`` questions in batches, in order; those of training have some spare ones beside."""

    def __init__(self, processor: Any, count: int, batch_size: int, spares: int = 0) -> None:
        super().__init__()
        self.collate = Collator(processor, THINK_SHORT)
        self.examples = [example(number) for number in range(count)]
        self.batch_size = batch_size
        self.spares = spares

    def train_dataloader(self) -> DataLoader[AudioQABatch]:
        """All questions."""
        collate = partial(with_spares, collate=self.collate, spares=self.spares)
        return DataLoader(self.examples, self.batch_size + self.spares, collate_fn=collate)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[AudioQABatch]:
        """All questions."""
        return DataLoader(self.examples, self.batch_size, collate_fn=self.collate)  # type: ignore[arg-type]

    test_dataloader = predict_dataloader = val_dataloader


class Learner(RolloutModule):
    """Keeps the batches that it is given; a training step moves the weights a little."""

    rollouts_in_training = True
    reference_urls: tuple[str, ...] = ()
    distillation: OnPolicyDistillation | None = None

    student: Student

    def __init__(self, weights: str, num_completions: int = 2, lora: LoRASettings | None = None) -> None:
        super().__init__()
        self.student = Student(weights, lora)
        self.num_completions = num_completions
        self.temperature = 1.0
        self.train_batches: list[AudioQABatch] = []
        self.val_batches: list[AudioQABatch] = []

    @property
    def training_rollouts(self) -> TrainingRollouts | None:
        """Groups of completions, unless the test wants none."""
        wanted = TrainingRollouts(
            self.num_completions,
            self.temperature,
            reference_urls=self.reference_urls,
            distillation=self.distillation,
        )
        return wanted if self.rollouts_in_training else None

    def training_step(self, batch: AudioQABatch, batch_idx: int) -> torch.Tensor:
        """Make the sampled completions less likely."""
        self.train_batches.append(batch)
        scores = self.student.completion_logprobs(batch, self.temperature)
        return scores.logprobs.sum() / batch.completions.mask.sum()  # type: ignore[union-attr]

    def validation_step(self, batch: AudioQABatch, batch_idx: int) -> None:
        """Keep the batch."""
        self.val_batches.append(batch)

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain gradient descent: the change is easy to see."""
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.05)
