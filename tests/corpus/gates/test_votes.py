from corpus.gates.votes import Votes, count_votes, known_without_clip, not_unanimous
from tests.support.written_questions import asked, votes

QUESTION = asked("Which?", "a dog", "a cat")


def test_unreadable_answers_are_asked_and_not_right() -> None:
    assert count_votes(QUESTION, votes("q", "a dog", "A DOG", "a cat", None)) == Votes(2, 4)


def test_a_question_that_is_known_without_the_clip() -> None:
    assert known_without_clip(Votes(4, 4)) == "4 of 4 answers without the clip are right"
    assert known_without_clip(Votes(3, 4)) == ""


def test_unanimity_is_that_of_the_writer_too() -> None:
    assert not_unanimous(Votes(4, 4)) == ""
    assert not_unanimous(Votes(3, 4)) == "3 of 4 answers are the written one"
    assert not_unanimous(count_votes(QUESTION, votes("q", "a cat", "a cat"))), "all agree, against the writer"
