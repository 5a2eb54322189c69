"""The official rule, the file for the official script, and the rows that the rule judges wrongly."""

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.reading.annotations import read_rows
from evaluation.benchmarks import read_questions
from evaluation.checked import check_predictions
from evaluation.official_mmau import accepts, defects, judge, official_rows, usable_row, write_official
from runtime.errors import UserError
from tests.support.dataset_files import SHARED, needs_shared
from tests.support.predictions import prediction, question, write_mmau

CHOICES = ["a dog barking", "a cat", "Light rain", "rain"]


@pytest.mark.parametrize(
    ("right", "said", "accepted"),
    [
        ("a cat", "a cat", True),
        ("a cat", "A CAT.", True),
        ("a cat", "it is a cat", True),  # words of no option do no harm
        ("a cat", "cat", False),  # "a" is missing
        ("a cat", "a cat or a dog", False),  # "dog" is a word of another option
        ("a cat", "", False),
        ("a cat", "?!", False),
        ("a cat", "(B)", False),
        ("rain", "rain", True),
        ("rain", "light rain", False),
        ("Light rain", "rain", False),
        ("Light rain", "light RAIN", True),
    ],
)
def test_the_rule(right: str, said: str, accepted: bool) -> None:
    assert accepts(right, said, CHOICES) is accepted


def test_letters_are_mapped_to_texts_first() -> None:
    row = {"id": "q0", "answer": "cat", "choices": ["dog", "cat", "rain", "wind"]}
    assert judge(prediction(0, "<answer>(B)</answer>"), row)
    assert judge(prediction(0, "The answer is B"), row)
    assert not judge(prediction(0, "<answer>(A)</answer>"), row)
    # by the order in which the options were shown
    assert judge(prediction(0, "(A)", options=("cat", "dog", "wind", "rain")), row)
    # no letter: the model's own words count
    assert judge(prediction(0, "<answer>a big cat</answer>"), row)
    assert not judge(prediction(0, "<answer>cat, not dog</answer>"), row)


def test_the_file_for_the_official_script(tmp_path: Path) -> None:
    write_mmau(tmp_path, [question(number) for number in range(3)])
    annotations = tmp_path / "mmau" / "mmau-test-mini.json"
    answers = [prediction(1, "<think>(A)</think><answer>(B)</answer>"), prediction(0, "<answer>dog</answer>")]
    write_official(tmp_path / "out" / "predictions.json", annotations, [*answers, prediction(0)])
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    rows = json.loads(annotations.read_text())
    said = ["dog", "cat", ""]  # the first answer to q0 counts, q2 has none
    assert written == [{**r, "model_output": s, "model_prediction": s} for r, s in zip(rows, said, strict=True)]


def test_defects() -> None:
    rows = [
        {"id": "1", "answer": "cat", "choices": ["dog", "cat"]},
        # the same words in another order
        {"id": "2", "answer": "joy, then fear", "choices": ["fear, then joy", "joy, then fear", "neutral"]},
        # "(A) ..." has the word "a", which only another option has
        {"id": "3", "answer": "dog", "choices": ["dog", "a cat"]},
    ]
    assert [(d.id, d.also_accepted, d.refused_forms) for d in defects(rows)] == [
        ("2", ("fear, then joy",), ()),
        ("3", (), ("(A) dog",)),
    ]


ROW = {"id": "x", "choices": ["dog", "cat"], "answer": "cat"}


@pytest.mark.parametrize(
    ("row", "passed_over"),
    [
        (ROW, False),
        (ROW | {"answer": "CAT"}, False),  # other capitals, as the DataModule reads it
        (ROW | {"choices": ["1", 2], "answer": 2}, False),
        (ROW | {"answer": "mouse"}, True),
        (ROW | {"answer": ""}, True),
        (ROW | {"answer": None}, True),
        ({"id": "x", "choices": ["dog", "cat"]}, True),
        ({"choices": ["dog", "cat"], "answer": "cat"}, True),
        (ROW | {"choices": ["dog", None]}, True),
        (ROW | {"choices": "dog cat"}, True),
        (ROW | {"choices": [f"c{number}" for number in range(30)], "answer": "c29"}, True),
        ("a text", True),
        (None, True),
    ],
)
def test_odd_rows_are_passed_over(row: Any, passed_over: bool) -> None:
    assert defects([row, {"id": 7, "answer": "dog", "choices": ["dog", "a cat"]}])[-1].id == "7"
    assert (usable_row(row) is None) is passed_over
    # whatever the row, the file for the official script is written; what is no object would stop the script
    written = official_rows([row], {"x": prediction(0, "(B)", options=("dog", "cat"))})
    assert [r["model_output"] for r in written] == ([] if not isinstance(row, dict) else ["cat" if "id" in row else ""])


def test_numbers_among_the_choices() -> None:
    assert accepts("2", "2", [1, 2, 2.5])
    assert not accepts("2", "1", [1, 2, 2.5])
    assert judge(prediction(0, "(B)", options=("1", "2")), {"answer": 2, "choices": [1, 2]})


def test_the_file_for_the_official_script_of_rows_without_answers(tmp_path: Path) -> None:
    """Ids may have slashes, be numbers, or be missing; half characters are U+FFFD on both sides."""
    rows: list[Any] = [ROW | {"id": name, "answer": ""} for name in ("a/b", 7, 8.0, "half \ud83d\u200b")]
    (tmp_path / "full.json").write_text("\n".join(map(json.dumps, [*rows, {"choices": []}, "text"])))
    said = {"a/b": "(A)", "7": "(B)", "8": "dog", "half \ufffd": "cat"}
    answers = [
        prediction(0, text, question_id=f"mmau/full/{name}", options=("dog", "cat")) for name, text in said.items()
    ]
    assert write_official(tmp_path / "out.json", tmp_path / "full.json", answers) == (5, 4)
    written = json.loads((tmp_path / "out.json").read_text(encoding="ascii"))
    assert [row["model_output"] for row in written] == ["dog", "cat", "dog", "cat", ""]
    assert [row.get("answer") for row in written] == ["", "", "", "", None]
    with pytest.raises(UserError, match=r"full\.json/out\.json cannot be written"):
        write_official(tmp_path / "full.json" / "out.json", tmp_path / "full.json", answers)


@needs_shared
def test_the_real_file_has_9_rows_with_a_wrong_answer_accepted_and_33_with_a_right_one_refused() -> None:
    found = defects(read_rows(SHARED / "mmau" / "mmau-test-mini.json"))
    assert sum(bool(defect.also_accepted) for defect in found) == 9
    assert sum(bool(defect.refused_forms) for defect in found) == 33
    assert all(form.startswith("(") for defect in found for form in defect.refused_forms)  # never the text alone


@needs_shared
@pytest.mark.parametrize("form", ["({letter})", "({letter}) {text}", "{text}", "<answer>{lower}</answer>"])
@pytest.mark.parametrize(("benchmark", "number"), [("mmau", 1000), ("music_avqa", 9185)])
def test_right_answers_fed_back_are_all_right(tmp_path: Path, benchmark: str, number: int, form: str) -> None:
    questions = read_questions(benchmark, SHARED, str(tmp_path))
    assert len(questions) == number
    answers = []
    for index, asked in enumerate(questions):
        assert asked.answer is not None and asked.answer_text is not None
        said = form.format(
            letter="ABCDEFGHIJKLMNOPQRSTUVWXYZ"[asked.answer], text=asked.answer_text, lower=asked.answer_text.lower()
        )
        changes = {"question_id": asked.id, "options": asked.options, "answer": asked.answer, "choice": asked.answer}
        answers.append(prediction(index, said, **changes))
    checked = check_predictions(answers, questions)
    assert all(answer.right for answer in checked.answers)
    assert checked.problems == ()
    if benchmark == "mmau":
        rows = read_rows(SHARED / "mmau" / "mmau-test-mini.json")
        by_id = {answer.question_id.rpartition("/")[2]: answer for answer in answers}
        assert all(judge(by_id[row["id"]], row) for row in rows)
        assert all(accepts(r["answer"], r["model_output"], r["choices"]) for r in official_rows(rows, by_id))


@needs_shared
def test_a_bare_letter_is_ambiguous_where_options_begin_with_letters(tmp_path: Path) -> None:
    """ "C" is a chord in two rows of MMAU: there it is read as the chord. "A" before "A:maj7" could be both.

    Everywhere else a letter is a label.
    """
    questions = read_questions("mmau", SHARED, str(tmp_path))
    bare = [
        prediction(0, "ABCDEFGH"[q.answer], question_id=q.id, options=q.options, answer=q.answer, choice=q.answer)
        for q in questions
        if q.answer is not None
    ]
    checked = check_predictions(bare, questions)
    wrong = [answer for answer in checked.answers if not answer.right]
    misread = [answer.question.options for answer in wrong if answer.chosen is not None]
    assert misread == [("C", "Gm", "Cm7b5", "Eb/G"), ("G", "D", "E", "C")]
    assert len(wrong) - len(misread) == 5
    assert all(any(option[0] in "ABCD" for option in answer.question.options) for answer in wrong)
