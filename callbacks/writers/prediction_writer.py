"""Predictions on disk, one JSON object a line, while they are made."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lightning_modules.doors import AnsweringModule, fitting
from records.completed import Completed
from records.records import Prediction, Question, read_jsonl, write_jsonl
from records.shards import truncate_partial_line
from runtime.all_ranks import all_gather_objects
from runtime.errors import UserError

MODULES = "modules that answer questions"
WHICH = "RemotePredictionWriter is for models behind an endpoint, PredictionWriter for those that are loaded here"


class PredictionWriter(Callback):
    """Writes the module's predictions of ``validate``, ``test`` and ``predict`` to a JSONL file.

    Each rank appends to ``<path>.rank<N>`` after each batch; at the end rank 0 merges these files into ``path``, each
    question once, and removes them. A run that was interrupted can be continued with ``resume``: questions that were
    answered are not asked again, and accuracy covers them too.

    Args:
        path: The file to write.
        resume: Use what an interrupted run of the same weights and data left beside ``path``; else it is removed.
    """

    for_endpoints = False
    """True for modules that ask an endpoint and do not wait for its answers."""

    def __init__(self, path: str, resume: bool = False) -> None:
        self.path = Path(path)
        self.resume = resume
        self._done: dict[str, Prediction] = {}
        self._written = 0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module whose answers this writer cannot write."""
        self._module(pl_module)

    def _module(self, pl_module: LightningModule) -> AnsweringModule:
        module = fitting(pl_module, AnsweringModule, self, MODULES)
        if module.asks_endpoint != self.for_endpoints:
            raise UserError(f"{type(self).__name__} does not fit {type(module).__name__}: {WHICH}")
        return module

    def _shard(self, rank: int) -> Path:
        return self.path.with_name(f"{self.path.name}.rank{rank}")

    def _shards(self) -> list[Path]:
        return sorted(self.path.parent.glob(self.path.name + ".rank*"))

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = self._module(pl_module)
        module.completed = Completed()
        if trainer.state.fn == TrainerFn.FITTING:
            return
        self._written = 0
        self._done = {}
        if self.resume:
            for shard in self._shards() if trainer.is_global_zero else ():
                truncate_partial_line(shard, Prediction)
            trainer.strategy.barrier("predictions")
            for shard in self._shards():
                take_over(self._done, read_jsonl(shard, Prediction))
            module.completed = Completed.answers(self._done)
            rank_zero_info(f"{self.path}: {len(self._done)} questions were answered before")
        elif trainer.is_global_zero:
            for shard in self._shards():
                shard.unlink()
        trainer.strategy.barrier("predictions")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._shard(trainer.global_rank).touch()
        except OSError as error:
            raise UserError(f"predictions cannot be written to {self.path}: {error.strerror}") from error

    def _check(self, pl_module: LightningModule, questions: Iterable[Question]) -> None:
        """Refuse to keep what was answered by another model, or was asked in another way.

        Raises:
            UserError: Some of the questions were.
        """
        now = self._module(pl_module).prediction_metadata
        for question in questions:
            if (then := self._done.get(question.id)) is None:
                continue
            if (then.options, then.probe) != (question.options, question.metadata.get("probe", "")):
                raise UserError(
                    f"{self.path}: {question.id} was answered before with other options or with other audio: restore "
                    "data.option_order and data.probe, or set resume to false"
                )
            if then.question_fingerprint not in ("", question.fingerprint):
                raise UserError(
                    f"{self.path}: {question.id} was answered before when it asked something else: restore the old "
                    "question, set trainer.default_root_dir to another folder, or set resume to false"
                )
            for name, value in now.items():
                found = vars(then)[name]
                if found and value and found != value:  # files of older versions do not say
                    raise UserError(
                        f"{self.path}: {question.id} was answered before with {name} {found!r}, now it is {value!r}: "
                        "restore the settings, set trainer.default_root_dir to another folder, or set resume to false"
                    )

    def _append(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            return
        predictions = self._module(pl_module).predictions
        fresh = predictions[self._written :]
        self._written = len(predictions)
        lines = [p.to_json() + "\n" for p in fresh if p.question_id not in self._done]
        if lines:
            path = self._shard(trainer.global_rank)
            try:
                with open(path, "a", encoding="utf-8") as shard:
                    shard.writelines(lines)
                    shard.flush()
                    os.fsync(shard.fileno())
            except OSError as error:
                raise UserError(
                    f"predictions cannot be written to {path}: {error.strerror}; with resume set to true the same "
                    "command keeps those that were written before"
                ) from error

    def _merge(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            return
        predictions = self._module(pl_module).predictions
        answered = all_gather_objects(trainer, [prediction.question_id for prediction in predictions])
        trainer.strategy.barrier("predictions")
        if trainer.is_global_zero:
            found = dict(self._done)
            take_over(found, (p for shard in self._shards() for p in read_jsonl(shard, Prediction)))
            # a run that ends early (a spent budget) has not come by all that was answered and paid for before
            before = self._done if self.for_endpoints else ()
            kept = [found[question_id] for question_id in dict.fromkeys([*answered, *before])]
            write_jsonl(self.path, kept)
            for shard in self._shards():
                shard.unlink()
            rank_zero_info(f"{len(kept)} predictions were written to {self.path}")
        trainer.strategy.barrier("predictions")

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, pl_module)

    @override
    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, pl_module)

    @override
    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, pl_module)

    @override
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if dataloader_idx == 0:  # the others are asked with another sound, and are not written
            self._check(pl_module, batch.questions)

    @override
    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._check(pl_module, batch.questions)

    @override
    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._check(pl_module, batch.questions)

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._append(trainer, pl_module)

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._append(trainer, pl_module)

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._append(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._merge(trainer, pl_module)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._merge(trainer, pl_module)

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._merge(trainer, pl_module)


def take_over(found: dict[str, Prediction], others: Iterable[Prediction]) -> None:
    """Add predictions to those that were found; the later one counts, but an answer goes before none.

    Args:
        found: Predictions by their question, changed in place.
        others: Further ones.
    """
    for prediction in others:
        if prediction.completion.strip() or prediction.question_id not in found:
            found[prediction.question_id] = prediction
