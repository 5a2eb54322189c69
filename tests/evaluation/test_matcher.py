"""Precision and recall of the reader of answers."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evaluation.__main__ import main
from evaluation.matcher import LABELLED, Agreement, agreement, matcher_table, misread, read_answers
from runtime.errors import UserError


def labelled(path: Path, *rows: dict[str, Any]) -> Path:
    """Write answers to dog (A) or cat (B)."""
    lines = [{"schema": "labelled-answer/1", "options": ["dog", "cat"], **row} for row in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """Of five answers, four are read as an option, three have a label, and two are read as it."""
    return labelled(
        tmp_path / "five.jsonl",
        {"completion": "(A)", "label": 0, "kind": "letter"},
        {"completion": "a cat", "label": 1, "kind": "text"},
        {"completion": "B", "label": 0, "kind": "letter"},  # labelled otherwise than it is read
        {"completion": "dog", "label": None, "kind": "text"},  # read although it has no label
        {"completion": "I hear a", "label": None, "kind": "cut", "finished": False, "held_out": True},
    )


def test_precision_and_recall(five: Path) -> None:
    found = agreement(read_answers(five))
    assert found == Agreement(answers=5, labelled=3, chosen=4, right=2)
    assert (found.precision, found.recall) == (2 / 4, 2 / 3)
    assert (agreement([]).precision, agreement([]).recall) == (None, None)


def test_a_row_for_each_kind(five: Path) -> None:
    assert matcher_table(read_answers(five)).rows == (
        ("letter", "2", "2", "2", "1", "50.0%", "50.0%"),
        ("text", "2", "1", "2", "1", "50.0%", "100.0%"),
        ("cut", "1", "0", "0", "0", "-", "-"),
        ("all but held out", "4", "3", "4", "2", "50.0%", "66.7%"),
        ("held out", "1", "0", "0", "0", "-", "-"),
        ("all", "5", "3", "4", "2", "50.0%", "66.7%"),
    )


def test_the_command(five: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["matcher", str(five), "--misread"])
    out = capsys.readouterr().out
    assert "| all | 5 | 3 | 4 | 2 | 50.0% | 66.7% |" in out
    assert "letter: 'B' of dog | cat: read as cat, labelled dog" in out
    assert "text: 'dog' of dog | cat: read as dog, labelled none" in out
    main(["matcher"])
    assert f"| all | {len(LABELLED.read_text(encoding='utf-8').splitlines())} |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"completion": "B", "label": 2}, r"x\.jsonl:1: label 2 is none of the 2 options"),
        ({"completion": "B", "label": -1}, r"x\.jsonl:1: label -1 is none of the 2 options"),
        ({"completion": "B"}, r"x\.jsonl:1: field 'label' is missing"),
        ({"completion": "B", "label": "B"}, r"x\.jsonl:1: field 'label': 'B' is not"),
        ({"completion": "B", "label": 1, "schema": "prediction/1"}, "expected schema 'labelled-answer/1'"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        main(["matcher", str(labelled(tmp_path / "x.jsonl", row))])


def test_a_file_without_answers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.jsonl: there is no labelled answer"):
        read_answers(labelled(tmp_path / "x.jsonl"))
    with pytest.raises(UserError, match=r"y\.jsonl: the file is missing"):
        read_answers(tmp_path / "y.jsonl")


def test_answers_of_the_kinds_that_models_give_are_read_right() -> None:
    """The bars: 99% precision, 95% recall, and no choice where thoughts were cut or a model refuses."""
    readings = read_answers(LABELLED)
    found = agreement(readings)
    assert found.answers >= 500
    assert found.precision is not None and found.precision >= 0.99, misread(readings)
    assert found.recall is not None and found.recall >= 0.95, misread(readings)
    silent = [r for r in readings if r.answer.kind.startswith(("refusal", "cut thoughts", "no answer", "empty"))]
    assert len(silent) >= 50 and agreement(silent).chosen == 0, misread(silent)


def test_the_labelled_answers_are_varied() -> None:
    """None is there twice with the same options, and no kind is most of the set."""
    answers = [reading.answer for reading in read_answers(LABELLED)]
    assert max(Counter((answer.completion, answer.options) for answer in answers).values()) == 1
    assert max(Counter(answer.kind for answer in answers if not answer.held_out).values()) <= 10
    assert {len(answer.options) for answer in answers} == {2, 3, 4, 5, 6, 7, 8, 9, 10}
    assert sum(answer.held_out for answer in answers) >= 80
