import pytest

from corpus.gates.answer_length import answer_stands_out, length_bias
from tests.support.written_questions import asked


def test_an_answer_much_longer_than_the_others_stands_out() -> None:
    # 20 characters, the longest other option has 10: more than 16 (1.6 times) and more than 18 (8 more)
    assert answer_stands_out(asked("Which?", "x" * 20, "y" * 10, "z")) == (
        "the answer has 20 characters, the longest other option 10"
    )
    assert answer_stands_out(asked("Which?", "x" * 18, "y" * 10, "z")) == ""


def test_a_long_wrong_option_and_short_words_do_not() -> None:
    assert answer_stands_out(asked("Which?", "dog", "x" * 40)) == ""
    assert answer_stands_out(asked("Which?", "violin", "dog", "cat")) == ""  # 6 of 3, but only 3 more


def test_habit_of_a_corpus() -> None:
    longest = [asked("Which?", "abcd", "a", "b", "c") for _ in range(12)]
    tied = [asked("Which?", "ab", "ab", "b", "c")]  # tells nothing
    bias = length_bias([*longest, *tied, asked("Which?", "ab", "b", answer=None)])
    # expected 12 / 4 = 3, variance 12 * 1/4 * 3/4 = 2.25: (12 - 3) / 1.5 = 6 standard deviations
    assert (bias.questions, bias.longest, bias.expected) == (12, 12, 3.0)
    assert bias.deviation == pytest.approx(6.0) and "a habit" in bias.sentence()


def test_no_habit() -> None:
    bias = length_bias([asked("Which?", "abcd", "a", "b", "c", answer=place) for place in range(4)])
    assert (bias.longest, bias.expected, bias.deviation) == (1, 1.0, 0.0) and "no habit" in bias.sentence()
    assert length_bias([]).deviation == 0.0
