"""Tokens of two vocabularies, side by side; spans and numbers worked out by hand."""

import math

import pytest

from inference.token_spans import byte_spans, spread


def spans(ours: list[str], theirs: list[str]) -> list[tuple[list[str], list[str]]]:
    """The tokens of each span, for texts that are given in both vocabularies."""
    found = byte_spans([len(token) for token in ours], [len(token) for token in theirs])
    return [(ours[span.ours], theirs[span.theirs]) for span in found]


def test_equal_tokens_are_a_span_each() -> None:
    assert spans(["a", "dog"], ["a", "dog"]) == [(["a"], ["a"]), (["dog"], ["dog"])]


def test_a_span_ends_where_both_have_an_edge() -> None:
    # hear|ing|rain against hearing|ra|in, and b|ar|k against ba|rk
    assert spans(["hear", "ing", "rain"], ["hearing", "ra", "in"]) == [
        (["hear", "ing"], ["hearing"]),
        (["rain"], ["ra", "in"]),
    ]
    assert spans(["b", "ar", "k"], ["ba", "rk"]) == [(["b", "ar", "k"], ["ba", "rk"])]


def test_what_is_longer_on_one_side_has_no_span() -> None:
    assert spans(["a", "bc"], ["a", "b"]) == [(["a"], ["a"])]
    assert spans(["a"], ["a", "b"]) == [(["a"], ["a"])]
    assert spans([], ["a"]) == spans(["a"], []) == []


def test_each_token_of_a_span_gets_the_whole_difference() -> None:
    # hear|ing against hearing: the teacher's -1 less the student's -2 - 0.5 is 1.5, for both tokens
    found = spread(byte_spans([4, 3, 1], [7]), [-2.0, -0.5, -3.0], [-1.0])
    assert found[:2] == pytest.approx([-2.0 + 1.5, -0.5 + 1.5]) and math.isnan(found[2])
    # one token against two: -0.25 - 0.75 is what the teacher thinks of it
    assert spread(byte_spans([4], [2, 2]), [-5.0], [-0.25, -0.75]) == pytest.approx([-1.0])


def test_a_pair_of_tokens_gets_exactly_what_the_teacher_said() -> None:
    assert spread(byte_spans([1, 1], [1, 1]), [-0.1, -1e9], [-0.3, -0.7]) == [-0.3, -0.7]
