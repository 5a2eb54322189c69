"""Predictions that do not fit the benchmark are named and change no score silently."""

from collections.abc import Callable

import pytest

from evaluation.checked import check_predictions
from records.records import Prediction
from tests.support.predictions import prediction, question

QUESTIONS = [question(number) for number in range(4)]
GOOD = [prediction(0), prediction(1), prediction(2, "<answer>dog</answer>"), prediction(3)]


def test_predictions_that_fit() -> None:
    checked = check_predictions(GOOD, QUESTIONS)
    assert [answer.right for answer in checked.answers] == [True, True, False, True]
    assert [answer.chosen for answer in checked.answers] == ["cat", "cat", "dog", "cat"]
    assert checked.problems == () and checked.unanswerable == 0


@pytest.mark.parametrize(
    ("change", "kind", "right"),
    [
        (lambda good: [*good, prediction(9)], "unknown id", 3),
        (lambda good: good[:3], "missing", 2),
        (lambda good: [*good, good[0]], "doubled id", 3),
        (lambda good: [*good, prediction(2)], "doubled id, other answer", 3),
        (lambda good: [prediction(2), *good], "doubled id, other answer", 4),  # the first counts
        (lambda good: [prediction(0, " \n"), *good[1:]], "empty completion", 2),
        (lambda good: [prediction(0, finished=False), *good[1:]], "cut completion", 3),
        (lambda good: [prediction(0, choice=3), *good[1:]], "read differently", 3),
        # the model was shown other options, or another one was right
        (lambda good: [prediction(0, options=("dog", "cat", "rain", "hail")), *good[1:]], "other annotation", 3),
        (lambda good: [prediction(0, answer=0), *good[1:]], "other annotation", 3),
        (lambda good: [prediction(0, answer=7), *good[1:]], "other annotation", 3),
        (lambda good: [prediction(0, question_fingerprint="0" * 12), *good[1:]], "other annotation", 3),
    ],
)
def test_each_problem_is_named(change: Callable[[list[Prediction]], list[Prediction]], kind: str, right: int) -> None:
    checked = check_predictions(change(GOOD), QUESTIONS)
    assert checked.counts() == {kind: 1}
    assert len(checked.answers) == 4
    assert sum(answer.right for answer in checked.answers) == right
    assert checked.problems[0].sentence.startswith(checked.problems[0].question_id)


def test_the_annotation_decides_what_is_right() -> None:
    """A stale file said that "dog" was right and the model said so."""
    stale = prediction(0, "<answer>dog</answer>", answer=0, correct=True)
    checked = check_predictions([stale], QUESTIONS[:1])
    assert not checked.answers[0].right
    assert "'dog' and is 'cat'" in checked.problems[0].sentence


def test_partial_scores_what_was_answered() -> None:
    checked = check_predictions(GOOD[:3], QUESTIONS, partial=True)
    assert len(checked.answers) == 3
    assert checked.problems[0].sentence == "mmau/test-mini/q3: there is no prediction; not scored"


def test_answers_follow_shuffled_options() -> None:
    shuffled = ("wind", "rain", "cat", "dog")
    answers = [
        prediction(0, "(C)", options=shuffled, choice=2, answer=2),
        prediction(1, "(B)", options=shuffled, choice=1, answer=2),
        prediction(2, "cat", options=shuffled, choice=2, answer=2),
    ]
    checked = check_predictions(answers, QUESTIONS[:3])
    assert [(answer.chosen, answer.right) for answer in checked.answers] == [
        ("cat", True),
        ("rain", False),
        ("cat", True),
    ]
    assert checked.problems == ()


def test_open_options_are_not_compared_but_the_right_answer_is() -> None:
    few = prediction(0, options=("cat", "dog"), choice=0, answer=0)
    assert check_predictions([few], QUESTIONS[:1], fixed_options=False).problems == ()
    assert check_predictions([few], QUESTIONS[:1]).counts() == {"other annotation": 1}


@pytest.mark.parametrize(
    ("completion", "chosen"),
    [
        ("<think>It meows.</think><answer>cat</answer> and", "cat"),
        ("<think>It meows.</think><answer>ca", None),
        ("<think>It meows like a cat", None),
        ("First I hear a cat", None),
        ("The answer is (B). It", None),
    ],
)
def test_a_cut_completion_has_answered_only_inside_of_a_closed_answer(completion: str, chosen: str | None) -> None:
    cut = prediction(0, completion, finished=False, choice=None if chosen is None else 1)
    checked = check_predictions([cut], QUESTIONS[:1])
    assert checked.answers[0].chosen == chosen
    assert checked.counts() == {"cut completion": 1}
    assert "only an answer between <answer> and </answer> counts" in checked.problems[0].sentence


def test_unparseable_answers_are_counted() -> None:
    checked = check_predictions([prediction(0, "a whale"), *GOOD[1:3]], QUESTIONS)
    assert checked.unanswerable == 1  # the missing one is none of them
