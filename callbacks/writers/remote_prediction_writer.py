"""Predictions of a model behind an endpoint on disk, with what failed and what it took."""

import dataclasses
import json
from collections import defaultdict
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from callbacks.writers.prediction_writer import WHICH, PredictionWriter, take_over
from callbacks.writers.yields import spending
from datamodules.audio_qa import AudioQADataModule, Role
from lightning_modules.doors import fitting
from lightning_modules.remote_qa import RemoteQAModule
from records.completed import Completed
from records.records import Prediction, Record, read_jsonl
from records.request_records import RequestError, Usage, spent
from records.shards import JsonlShards
from runtime.errors import UserError
from runtime.uninterrupted import uninterrupted

_FOLDERS: dict[type[Record], str] = {RequestError: "errors", Usage: "usage"}
_ROLES: dict[TrainerFn, Role] = {
    TrainerFn.VALIDATING: "val",
    TrainerFn.TESTING: "test",
    TrainerFn.PREDICTING: "predict",
}


class RemotePredictionWriter(PredictionWriter):
    """Writes the predictions of a ``RemoteQAModule`` to a JSONL file, as PredictionWriter does for a student.

    Beside the file there are ``errors`` and ``usage``, which each rank appends to while the questions are asked, and
    ``report.json``: settings, tokens, money, and every question without an answer, by the kind of its failure. A
    question without an answer has an empty prediction, so that it counts as wrong; a question that was never asked,
    because the budget was spent, has none. The same command asks again whatever has no answer, and nothing else.

    Args:
        path: The file to write.
        resume: Keep what earlier runs of the same model and data answered; else all questions are asked anew.
    """

    for_endpoints = True

    def __init__(self, path: str, resume: bool = True) -> None:
        super().__init__(path, resume)
        self._logs = JsonlShards(self.path.parent, _FOLDERS)
        self._logged = {kind: 0 for kind in _FOLDERS}

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read what is on disk before the questions' clips are prepared."""
        module = self._module(pl_module)
        if trainer.state.fn == TrainerFn.FITTING:
            return
        super()._begin(trainer, pl_module)
        if self.resume and self.path.is_file():
            before = {p.question_id: p for p in read_jsonl(self.path, Prediction)}
            take_over(before, self._done.values())
            self._done = before
        self._done = {name: prediction for name, prediction in self._done.items() if prediction.completion.strip()}
        if trainer.is_global_zero:
            self._logs.repair(_FOLDERS)
        trainer.strategy.barrier("requests repaired")
        module.completed = self._data(trainer).completed = Completed.answers(self._done)
        module.spent = spent(self._logs.read(Usage))
        if self._done:
            rank_zero_info(f"{self.path}: {len(self._done)} questions have an answer and are not asked again")
        trainer.strategy.barrier("requests read")
        self._logs.open(_FOLDERS, trainer.global_rank)
        self._logged = {kind: 0 for kind in _FOLDERS}

    @override
    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing when the epoch starts: everything was read in ``setup``."""

    @override
    def _module(self, pl_module: LightningModule) -> RemoteQAModule:
        super()._module(pl_module)
        return fitting(pl_module, RemoteQAModule, self, WHICH)

    def _data(self, trainer: Trainer) -> AudioQADataModule:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, AudioQADataModule):
            raise UserError(
                f"{type(self).__name__} does not fit {type(data).__name__}: it needs a DataModule of questions"
            )
        return data

    @override
    def _append(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = self._module(pl_module)
        made: dict[type[Record], list[Any]] = {Usage: module.usage, RequestError: module.errors}
        with uninterrupted():
            if self._logs:
                for kind, records in made.items():  # usage first: what was paid for is never forgotten
                    self._logs.append(kind, records[self._logged[kind] :])
                    self._logged[kind] = len(records)
            super()._append(trainer, pl_module)

    def _drain(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for _ in self._module(pl_module).collect():
            self._append(trainer, pl_module)
        self._append(trainer, pl_module)

    @override
    def _merge(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._logs.close()
        super()._merge(trainer, pl_module)
        if trainer.is_global_zero:
            self._report(trainer, self._module(pl_module))

    def _report(self, trainer: Trainer, module: RemoteQAModule) -> None:
        datamodule = self._data(trainer)
        assert trainer.state.fn is not None and datamodule.requests is not None
        asked = [question.id for question in datamodule.questions(_ROLES[trainer.state.fn])]
        said = {p.question_id: bool(p.completion.strip()) for p in read_jsonl(self.path, Prediction)}
        errors = {e.question_id: e for e in self._logs.read(RequestError) if said.get(e.question_id) is False}
        unanswered = defaultdict(list)
        for name in sorted(name for name, answered in said.items() if not answered):
            unanswered[errors[name].kind if name in errors else "empty reply"].append(name)
        not_asked = [name for name in asked if name not in said]
        taken = spending(self._logs.read(Usage), errors.values())
        content = {
            **module.prediction_metadata,
            "endpoint": module.endpoint_settings.label,
            "sampling": module.fields,
            "frames_as": module.send,
            "sent": dataclasses.asdict(datamodule.requests),
            "questions": len(asked),
            "answered": sum(said.values()),
            "unanswered": dict(unanswered),
            "not_asked": not_asked,
            **taken.as_dict(),
        }
        report = self.path.parent / "report.json"
        report.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        rank_zero_info(f"{self.path.parent.name}: {taken.sentence()}")
        if unanswered or not_asked:
            kinds = ", ".join(f"{len(names)} {kind}" for kind, names in unanswered.items()) or "none"
            rank_zero_warn(
                f"{len(asked) - sum(said.values())} of {len(asked)} questions have no answer: asked and counted as "
                f"wrong: {kinds}; not asked: {len(not_asked)}; {report} names them, the same command asks them again"
            )

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._drain(trainer, pl_module)

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._drain(trainer, pl_module)

    @override
    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._drain(trainer, pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._logs:
            module = self._module(pl_module)
            module.give_up(exception)
            module.keep_finished()
            self._append(trainer, module)
        self._logs.close()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._logs.close()
