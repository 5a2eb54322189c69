"""The filter of questions that need no hearing: from answers in silence to what is trained on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest

from callbacks import RecordWriter
from datamodules import AVQADataModule
from lightning_modules.silent_answers import SilentAnswersModule
from records.silent_answers import SilentAnswer, known_in_silence
from runtime.errors import UserError
from tests.support.avqa_folder import RuledStudent, write_avqa
from tests.support.stages import records

PLANTED = 40
QUESTIONS = 120


def knows_the_planted(question: Any, own: bool, rng: Any) -> int:
    """Right about every third question without hearing, nine times of ten tries; else a guess."""
    number = int(question.id.rpartition("/")[2])
    if own or (number < PLANTED and number % 10 != 9):
        return int(question.answer)
    return int(rng.integers(4))


class Stopped(Exception):
    pass


def stops_at(number: int) -> Callable[..., int]:
    def rule(question: Any, own: bool, rng: Any) -> int:
        if question.id.endswith(f"/{number}"):
            raise Stopped
        return knows_the_planted(question, own, rng)

    return rule


@pytest.fixture
def made(weights: str, tmp_path: Path) -> Callable[..., AVQADataModule]:
    root = write_avqa(tmp_path / "avqa", [n % 4 for n in range(QUESTIONS)], [0, 1])
    shared = {"processor": weights, "num_workers": 0, "batch_size": 10, "media_suffix": ".wav"}
    return lambda **settings: AVQADataModule(str(root), **shared, **settings)


def ask(data: AVQADataModule, weights: str, out: Path, rule: Any, **settings: Any) -> list[str]:
    student = RuledStudent(rule)
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[RecordWriter(str(out)), student],
        default_root_dir=out,
    )  # fmt: skip
    trainer.predict(SilentAnswersModule(weights, **settings), data, return_predictions=False)
    return student.asked


def test_what_needs_no_hearing_is_left_out(made: Callable[..., Any], weights: str, tmp_path: Path) -> None:
    """At least 80% of the planted questions go and 90% of the others stay, also when the stage was killed."""
    out = tmp_path / "silent"
    with pytest.raises(Stopped):
        ask(made(probe="silence"), weights, out, stops_at(57))
    assert len(records(out / "silent_answers", SilentAnswer)) == 4 * 50
    asked = ask(made(probe="silence"), weights, out, knows_the_planted)
    assert len(asked) == QUESTIONS - 50  # what was answered before is not asked again
    answers = records(out / "silent_answers", SilentAnswer)
    assert len({(a.question_id, a.sample) for a in answers}) == len(answers) == 4 * QUESTIONS
    assert ask(made(probe="silence"), weights, out, knows_the_planted) == ["avqa/train/0"]  # all ranks ask something
    assert len(records(out / "silent_answers", SilentAnswer)) == len(answers)

    data = made(silent_answers=str(out / "silent_answers"))
    kept = {int(item.question.id.rpartition("/")[2]) for item in data.trained}
    assert len(made().trained) == QUESTIONS
    planted = sum(number < PLANTED for number in kept)
    others = sum(number >= PLANTED for number in kept)
    assert planted <= 0.2 * PLANTED and others >= 0.9 * (QUESTIONS - PLANTED)
    report = [json.loads(line) for line in (data.report_dir / "avqa-train.silent.jsonl").read_text().splitlines()]
    assert len(report) == QUESTIONS - len(kept) and report[0]["reason"] == "answered right 4 of 4 times in silence"


def test_k_of_k() -> None:
    """Right three times of three; once wrong; one of three missing; without a label."""
    rows = {"all": (True, True, True), "once": (True, False, True), "two": (True, True), "none": (None, None, None)}
    answers = [SilentAnswer(q, s, 3, 0, right) for q, given in rows.items() for s, right in enumerate(given)]
    assert known_in_silence(answers) == {"all": 3}


def test_what_does_not_fit_is_refused(made: Callable[..., Any], weights: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"asks without sound: set data\.probe to silence"):
        ask(made(probe="swap"), weights, tmp_path / "a", knows_the_planted)
    with pytest.raises(UserError, match="at temperature 0 all answers are the same"):
        SilentAnswersModule(weights, temperature=0.0)
    ask(made(probe="silence", limit=20), weights, tmp_path / "b", lambda question, own, rng: question.answer)
    with pytest.raises(UserError, match="samples 4, this run would add some with 2"):
        ask(made(probe="silence", limit=20), weights, tmp_path / "b", knows_the_planted, samples=2)
    with pytest.raises(UserError, match="all 20 questions are answered right without hearing"):
        made(silent_answers=str(tmp_path / "b" / "silent_answers"), limit=20).trained  # noqa: B018
    stranger = SilentAnswer("avqa/train/x", 0, 1, 0, True)
    (tmp_path / "x.jsonl").write_text(stranger.to_json() + "\n")
    with pytest.raises(UserError, match=r"no answer in .* is to a question that is trained on"):
        made(silent_answers=str(tmp_path / "x.jsonl")).trained  # noqa: B018
