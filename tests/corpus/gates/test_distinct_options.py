import pytest

from corpus.gates.distinct_options import repeated_option
from tests.support.written_questions import asked


@pytest.mark.parametrize("again", ["dog", "Dog", "the dog", "A dog.", "  dog "])
def test_the_same_option_in_other_words(again: str) -> None:
    assert "once more" in repeated_option(asked("Which?", "dog", "cat", "violin", again))


def test_distinct_options_pass() -> None:
    assert repeated_option(asked("Which?", "a dog", "a dog and a cat", "the", "hot dog")) == ""


def test_an_option_that_says_nothing() -> None:
    assert "says nothing" in repeated_option(asked("Which?", "dog", "..."))
