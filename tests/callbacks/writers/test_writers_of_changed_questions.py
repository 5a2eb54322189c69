"""The same command with other questions of the same ids: nothing old is taken for an answer to them."""

import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from callbacks.writers.prediction_writer import PredictionWriter
from callbacks.writers.record_writer import RecordWriter
from datamodules.avqa import AVQADataModule
from datamodules.trace_clips import traces_to_check
from lightning_modules.doors import AnsweringModule, RecordStage
from records.records import Prediction, Question, Record, RecordError, Trace, Verdict, write_jsonl
from records.request_records import ItemResult, RequestError, Usage
from runtime.errors import UserError

OLD = [Question(f"avqa/train/{n}", "avqa", "a.mp4", f"What {n}?", ("a dog", "a cat"), 0, "Which") for n in range(3)]
NEW = [OLD[0], replace(OLD[1], text="Who?"), replace(OLD[2], text="Who?")]


class Questions(AVQADataModule):
    """Some questions without files."""

    def __init__(self, questions: list[Question]) -> None:
        self._asked = questions

    def questions(self, role: Any) -> list[Question]:
        return self._asked


class Stage(RecordStage):
    """Makes one record of each question that has none, and fails for good at the last one."""

    samples = 1

    def __init__(self, record_type: type[Record], questions: list[Question]) -> None:
        super().__init__()
        self.record_type = record_type
        self.asked = questions
        self.provenance = {}

    def outcomes(self) -> list[ItemResult]:
        made: list[ItemResult] = []
        for question in self.asked:
            if not self.completed.lacks(question.id):
                continue
            record: Record = Verdict(question.id, 0, True, "c")
            if self.record_type is Trace:
                record = Trace(question.id, 0, question.text, "a dog", "t")
            usage = Usage(question.id, "run")
            if question.id == self.asked[-1].id:
                made.append(ItemResult((), (RequestError.now(question.id, "refusal", True, "no", 0),), usage))
            else:
                made.append(ItemResult((record,), (), usage))
        return made


def trainer_of(questions: list[Question]) -> Any:
    return SimpleNamespace(
        is_global_zero=True,
        global_rank=0,
        strategy=SimpleNamespace(barrier=lambda name: None),
        datamodule=Questions(questions),
        state=SimpleNamespace(fn="predict"),
    )


def run(directory: Path, questions: list[Question], kind: type[Record] = Trace) -> tuple[RecordWriter, list[str]]:
    """Run a stage as a trainer does; returns its writer and the questions that were asked."""
    trainer = trainer_of(questions)
    writer, stage = RecordWriter(str(directory)), Stage(kind, questions)
    writer.setup(trainer, stage, "predict")
    asked = [question.id[-1] for question in questions if stage.completed.lacks(question.id)]
    writer.on_predict_batch_end(trainer, stage, None, None, 0)
    writer.teardown(trainer, stage, "predict")
    return writer, asked


@pytest.mark.parametrize("kind", [Trace, Verdict])
def test_changed_questions_are_asked_again(tmp_path: Path, kind: type[Record]) -> None:
    assert run(tmp_path, OLD, kind)[1] == ["0", "1", "2"]
    with pytest.warns(UserWarning, match=r"1 (traces|verdicts) are of questions that have changed since \(avqa/t"):
        writer, asked = run(tmp_path, NEW, kind)
    assert asked == ["1", "2"]  # the third one was refused for good, but when it asked something else
    read = writer.read(kind)
    assert [(one.question_id, one.question_fingerprint) for one in read] == [(q.id, q.fingerprint) for q in NEW[:2]]
    assert [error.question_fingerprint for error in writer.read(RequestError)] == [NEW[2].fingerprint]
    with pytest.warns(UserWarning, match="and are not used"):
        assert run(tmp_path, NEW, kind)[1] == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(tmp_path / "other", NEW, kind)[1] == ["0", "1", "2"]


def test_the_checker_leaves_out_traces_of_changed_questions(tmp_path: Path) -> None:
    run(tmp_path, OLD)
    files = [str(tmp_path / "traces")]
    with pytest.warns(UserWarning, match=r"1 traces are of questions that have changed since .*made again by the teac"):
        assert list(traces_to_check(files, {q.id: q for q in NEW}, False)) == ["avqa/train/0"]
    with pytest.raises(RecordError, match=r"no trace is of a question in the data, 1 traces are of .* changed since"):
        traces_to_check(files, {NEW[1].id: NEW[1]}, False)


class Answering(AnsweringModule):
    """Answers nothing."""

    @property
    def prediction_metadata(self) -> dict[str, Any]:
        return {}


def test_a_prediction_is_not_taken_over_for_a_changed_question(tmp_path: Path) -> None:
    made = Prediction(OLD[1].id, "a dog", 0, 0, True, "Which", OLD[1].options, True)
    writer, module, trainer = PredictionWriter(str(tmp_path / "p.jsonl"), resume=True), Answering(), trainer_of(OLD)
    for known in ("", OLD[1].fingerprint):
        write_jsonl(tmp_path / "p.jsonl.rank0", [replace(made, question_fingerprint=known)])
        writer.on_predict_epoch_start(trainer, module)
        writer.on_predict_batch_start(trainer, module, SimpleNamespace(questions=OLD), 0)
    with pytest.raises(UserError, match=r"p\.jsonl: avqa/train/1 was answered before when it asked something else"):
        writer.on_predict_batch_start(trainer, module, SimpleNamespace(questions=NEW), 0)
