"""What tells a question from another one of the same id."""

from dataclasses import replace

from records.changed_questions import without_changed
from records.records import Question, Trace

QUESTION = Question("q/1", "avqa", "a.mp4", "What is it in the video?", ("a dog", "a cat"), 0, "Which")


def test_text_and_options_in_their_order_are_what_is_asked() -> None:
    others = (
        replace(QUESTION, text="Who is it in the video?"),
        replace(QUESTION, options=("a dog", "a cow")),
        replace(QUESTION, options=("a cat", "a dog")),
    )
    assert len({QUESTION.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert len(QUESTION.fingerprint) == 12


def test_teacher_and_student_are_asked_the_same() -> None:
    heard = replace(QUESTION, text="What is it in the audio?", media="sounds/a.wav", answer=None, category="x")
    assert heard.fingerprint == QUESTION.fingerprint


def test_only_records_that_say_otherwise_are_of_changed_questions() -> None:
    same, unknown, elsewhere, changed = (
        Trace(name, 0, "", None, "t", question_fingerprint=known)
        for name, known in (("q/1", QUESTION.fingerprint), ("q/1", ""), ("q/2", "0" * 12), ("q/1", "0" * 12))
    )
    kept = without_changed([same, unknown, elsewhere, changed], [QUESTION])
    assert kept == ([same, unknown, elsewhere], [changed])
