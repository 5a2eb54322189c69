"""Completions to look at and listen to, on Weights & Biases."""

from typing import Any

import wandb
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from answers.answers import extract_answer
from callbacks.tracking.wandb_logging import log_to_wandb, wandb_loggers
from datamodules.batching.batch import AudioQABatch
from datamodules.media.audio import SAMPLE_RATE
from lightning_modules.doors import AnsweringModule, GradedRollouts, fitting
from records.reasoning_tags import shown_thoughts
from runtime.errors import refuse_below
from runtime.lightning_internals import logger_step


class CompletionTable(Callback):
    """Logs tables with the audio to play, question, options, trace, answer, label, rewards and advantage.

    ``train/completions`` shows rollouts of rank 0 every few batches, group after group; ``val/completions`` and
    ``test/completions`` show the first answers of each evaluation.

    Args:
        every_n_batches: Training batches between two tables.
        max_rows: Completions in a table at most; each row carries its clip.
    """

    def __init__(self, every_n_batches: int = 50, max_rows: int = 16) -> None:
        refuse_below(1, every_n_batches=every_n_batches, max_rows=max_rows)
        self.every_n_batches = every_n_batches
        self.max_rows = max_rows
        self._rows: list[dict[str, Any]] = []

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that answers no questions."""
        self._module(pl_module)

    def _module(self, pl_module: LightningModule) -> AnsweringModule:
        return fitting(pl_module, AnsweringModule, self, "modules that answer questions")

    def _wanted(self, trainer: Trainer) -> bool:
        return bool(wandb_loggers(trainer)) and trainer.is_global_zero

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: AudioQABatch, batch_idx: int
    ) -> None:
        if not self._wanted(trainer) or (batch_idx + 1) % self.every_n_batches != 0 or batch.completions is None:
            return
        graded = pl_module if isinstance(pl_module, GradedRollouts) else None
        rewards = {} if graded is None else graded.last_rewards
        advantages = None if graded is None else graded.last_advantages
        rows: list[dict[str, Any]] = []
        for b, group in enumerate(batch.completions.texts):
            for g, text in enumerate(group):
                if len(rows) == self.max_rows:
                    break
                row = row_of(batch, b, text, bool(batch.completions.finished[b, g]), logger_step(trainer))
                row |= {f"reward/{name}": float(value[b, g]) for name, value in rewards.items()}
                if advantages is not None:
                    row["advantage"] = float(advantages[b, g])
                rows.append(row)
        log_to_wandb(trainer, {"train/completions": table(rows)})

    def _evaluated(self, trainer: Trainer, pl_module: LightningModule, batch: AudioQABatch) -> None:
        if not self._wanted(trainer) or trainer.sanity_checking or batch.completions is None:
            return
        read = {prediction.question_id: prediction for prediction in self._module(pl_module).predictions}
        for b, group in enumerate(batch.completions.texts[: self.max_rows - len(self._rows)]):
            question = batch.questions[b]
            row = row_of(batch, b, group[0], bool(batch.completions.finished[b, 0]), logger_step(trainer))
            row["label"] = question.answer_text or ""
            prediction = read.get(question.id)
            choice = None if prediction is None or prediction.choice is None else question.options[prediction.choice]
            row |= {"choice": choice, "correct": None if prediction is None else prediction.correct}
            self._rows.append(row)

    def _flush(self, trainer: Trainer, key: str) -> None:
        if self._rows:
            log_to_wandb(trainer, {key: table(self._rows)})
        self._rows = []

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: AudioQABatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx == 0:  # the others are asked with another sound
            self._evaluated(trainer, pl_module, batch)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush(trainer, "val/completions")

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: AudioQABatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._evaluated(trainer, pl_module, batch)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush(trainer, "test/completions")


def row_of(batch: AudioQABatch, b: int, text: str, finished: bool, step: int) -> dict[str, Any]:
    """Return what every table says about a completion.

    Args:
        batch: The batch.
        b: Which question of it.
        text: The completion.
        finished: False when it was cut at the token limit.
        step: The step under which it is logged.
    """
    question = batch.questions[b]
    return {
        "step": step,
        "question_id": question.id,
        "category": question.category,
        "audio": wandb.Audio(batch.waveforms[b], sample_rate=SAMPLE_RATE),
        "question": question.text,
        "options": " | ".join(question.options),
        "trace": shown_thoughts(text),
        "answer": extract_answer(text, finished),
        "label": batch.labels[b] or "",
        "finished": finished,
        "completion": text,
    }


def table(rows: list[dict[str, Any]]) -> wandb.Table:
    """Return a table whose columns are the rows' keys.

    Args:
        rows: Rows with equal keys.
    """
    columns = list(rows[0])
    return wandb.Table(columns=columns, data=[[row[column] for column in columns] for row in rows])
