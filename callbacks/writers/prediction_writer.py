"""Predictions on disk, one JSON object a line, while they are made."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from callbacks.rollout.rollout_callback import RECORDED
from datamodules.batching.batch import AudioQABatch, Completions
from records.records import Prediction, Question, read_jsonl, write_jsonl
from records.shards import cut_torn_line
from runtime.all_ranks import of_all_ranks
from runtime.errors import UserError


class PredictionWriter(Callback):
    """Writes the module's predictions of ``validate``, ``test`` and ``predict`` to a JSONL file.

    Each rank appends to ``<path>.rank<N>`` after each batch; at the end rank 0 merges these files into ``path``, each
    question once, and removes them. A run that was interrupted can be continued with ``resume``: questions that were
    answered are not asked again, and accuracy covers them too. It must come before the rollout callback in
    ``trainer.callbacks``.

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

    def _shard(self, rank: int) -> Path:
        return self.path.with_name(f"{self.path.name}.rank{rank}")

    def _shards(self) -> list[Path]:
        return sorted(self.path.parent.glob(self.path.name + ".rank*"))

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            return
        if hasattr(pl_module, "answered") != self.for_endpoints:
            raise UserError(
                f"{type(self).__name__} does not fit {type(pl_module).__name__}: RemotePredictionWriter is for models "
                "behind an endpoint, PredictionWriter for those that are loaded here"
            )
        self._written = 0
        self._done = {}
        if self.resume:
            for shard in self._shards() if trainer.is_global_zero else ():
                cut_torn_line(shard, Prediction)
            trainer.strategy.barrier("predictions")
            for shard in self._shards():
                take_over(self._done, read_jsonl(shard, Prediction))
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

    def _recall(self, pl_module: Any, batch: AudioQABatch) -> None:
        """Fill in a batch all of whose questions were answered before."""
        known = self._known(pl_module, batch.questions)
        if not known or any(prediction is None for prediction in known):
            return
        done = [prediction for prediction in known if prediction is not None]
        shape = (len(done), 1, 1)
        batch.completions = Completions(
            ids=torch.zeros(shape, dtype=torch.long),
            mask=torch.zeros(shape, dtype=torch.bool),
            texts=[[prediction.completion] for prediction in done],
            finished=np.array([[prediction.finished] for prediction in done]),
            weight_version=RECORDED,
        ).to(batch.prompt_ids.device)

    def _known(self, pl_module: Any, questions: Sequence[Question]) -> list[Prediction | None]:
        """Return what was answered before.

        Raises:
            UserError: It was answered by another model, or was asked in another way.
        """
        now = getattr(pl_module, "asked_as", {})
        known = [self._done.get(question.id) for question in questions]
        for question, then in zip(questions, known, strict=True):
            if then is None:
                continue
            if (then.options, then.probe) != (question.options, question.metadata.get("probe", "")):
                raise UserError(
                    f"{self.path}: {question.id} was answered before with other options or with other audio: restore "
                    "data.option_order and data.probe, or set resume to false"
                )
            for name, value in now.items():
                found = getattr(then, name)
                if found and value and found != value:  # files of older versions do not say
                    raise UserError(
                        f"{self.path}: {question.id} was answered before with {name} {found!r}, now it is {value!r}: "
                        "restore the settings, set trainer.default_root_dir to another folder, or set resume to false"
                    )
        return known

    def _append(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            return
        fresh = pl_module.predictions[self._written :]
        self._written = len(pl_module.predictions)
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

    def _merge(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            return
        answered = of_all_ranks(trainer, [prediction.question_id for prediction in pl_module.predictions])
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
        self._recall(pl_module, batch)

    @override
    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._recall(pl_module, batch)

    @override
    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._recall(pl_module, batch)

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
