"""What is complete, as the teacher (n samples of each question) and the checker (the traces there are) ask for it."""

from records.completed import Completed
from records.records import Prediction

SOME = Completed(frozenset({("a", 0), ("a", 2), ("b", None), ("c", 0), ("c", 1), ("c", 2)}), samples=3)


def test_samples_remain_that_are_complete_neither_alone_nor_with_their_question() -> None:
    assert SOME.remaining("a", range(3)) == [1]
    assert SOME.remaining("a", [2, 5]) == [5]
    assert SOME.remaining("b", range(3)) == [] == SOME.remaining("c", range(3))
    assert SOME.remaining("d", range(3)) == [0, 1, 2]
    assert ("a", 0) in SOME and ("a", 1) not in SOME and ("b", 0) not in SOME


def test_a_question_lacks_something_until_all_of_its_samples_are_there() -> None:
    assert [SOME.lacks(name) for name in "abcd"] == [True, False, False, True]
    without_number = Completed(SOME.places)
    assert [without_number.lacks(name) for name in "abcd"] == [True, False, True, True]
    assert Completed().lacks("a")


def test_an_answered_question_is_complete_as_a_whole() -> None:
    answer = Prediction("a", "<answer>x</answer>", 0, 0, True, "", ("x", "y"), True)
    done = Completed.answers({"a": answer})
    assert not done.lacks("a") and done.lacks("b") and done.predictions["a"] is answer
