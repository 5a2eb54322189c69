"""Intervals and tests, against values worked out by hand."""

import time

import numpy as np
import pytest

from evaluation.accuracy import score
from evaluation.checked import check_predictions
from evaluation.intervals import bootstrap, compare, interval, mcnemar
from tests.support.predictions import prediction, question


def test_bootstrap_of_a_share_is_binomial() -> None:
    """90 of 100 independent questions: resampled means are Binomial(100, 0.9) / 100, standard deviation 0.03."""
    values = np.array([1.0] * 90 + [0.0] * 10)[:, None]
    means = bootstrap(values, np.ones((100, 1), dtype=bool), range(100), resamples=20_000)[:, 0]
    assert means.mean() == pytest.approx(0.9, abs=0.001)
    assert means.std() == pytest.approx(0.03, abs=0.001)
    # quantiles of Binomial(100, 0.9): P(X <= 83) = 0.021, P(X <= 84) = 0.040; P(X <= 94) = 0.942, P(X <= 95) = 0.976
    assert interval(means) == (pytest.approx(0.84), pytest.approx(0.95))


def test_questions_on_one_clip_are_resampled_together() -> None:
    """Ten clips of ten equal answers each are ten draws: standard deviation sqrt(0.25 / 10), not sqrt(0.25 / 100)."""
    values = np.repeat([1.0, 0.0] * 5, 10)[:, None]
    members = np.ones((100, 1), dtype=bool)
    together = bootstrap(values, members, np.repeat(range(10), 10).tolist(), resamples=20_000)
    apart = bootstrap(values, members, range(100), resamples=20_000)
    assert together.std() == pytest.approx(0.158, abs=0.003)
    assert apart.std() == pytest.approx(0.05, abs=0.001)


def test_groups_and_empty_groups() -> None:
    values = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    members = np.array([[True, True, False], [True, False, False]])
    means = bootstrap(values, members, ["a", "b"], resamples=500)
    assert set(means[:, 0]) == {0.0, 0.5, 1.0}  # bb, ab, aa
    assert set(means[~np.isnan(means[:, 1]), 1]) == {1.0}
    assert np.isnan(means[:, 1]).mean() == pytest.approx(0.25, abs=0.06)  # bb
    assert np.isnan(means[:, 2]).all()
    assert np.isnan(interval(means[:, 2])).all()


def test_the_same_seed_gives_the_same_interval() -> None:
    args = np.array([[1.0], [0.0], [1.0]]), np.ones((3, 1), dtype=bool), ["a", "b", "c"]
    assert (bootstrap(*args) == bootstrap(*args)).all()
    assert (bootstrap(*args) != bootstrap(*args, seed=1)).any()


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (0, 5, 2 / 32),  # 2 * 0.5 ** 5
        (1, 5, 2 * (1 + 6) / 64),
        (3, 3, 1.0),
        (10, 2, 2 * (1 + 12 + 66) / 4096),
    ],
)
def test_mcnemar(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(p)
    assert mcnemar(only_second, only_first) == pytest.approx(p)


def test_comparison() -> None:
    """Of 100 questions both get 50, only the second 20, only the first 5: a gain of 15 points."""
    first = [True] * 50 + [False] * 20 + [True] * 5 + [False] * 25
    second = [True] * 50 + [True] * 20 + [False] * 5 + [False] * 25
    found = compare(first, second, range(100), resamples=20_000)
    assert (found.questions, found.only_first, found.only_second) == (100, 5, 20)
    assert found.difference == pytest.approx(0.15)
    # variance of the gain: 0.25 - 0.15 ** 2 = 0.2275, of its mean 0.002275: 1.96 standard deviations are 9.3 points
    assert (found.low, found.high) == (pytest.approx(0.06, abs=0.011), pytest.approx(0.24, abs=0.011))
    # 2 * sum of C(25, k) for k = 0..5 is 2 * 68406 of 2 ** 25
    assert found.mcnemar == pytest.approx(2 * 68406 / 2**25)
    assert found.bootstrap < 0.01
    same = compare(first, first, range(100))
    assert (same.difference, same.mcnemar, same.bootstrap) == (0.0, 1.0, 1.0)


def test_all_right_is_not_certain() -> None:
    """Ten of ten: the exact interval's lower end is 0.025 ** (1 / 10)."""
    questions = [question(number) for number in range(10)]
    checked = check_predictions([prediction(number) for number in range(10)], questions)
    average = score("mmau", checked)["average"]
    assert (average.low, average.high) == (pytest.approx(0.025**0.1), 1.0)


@pytest.mark.integration
def test_a_hundred_thousand_predictions_take_ten_times_what_ten_thousand_take() -> None:
    from records.records import Prediction

    rng = np.random.default_rng(0)
    said = rng.choice(["cat", "dog", "(B)", "(A) dog", "a whale"], size=100_000)
    questions = [question(number) for number in range(100_000)]
    lines = [prediction(number, f"<answer>{text}</answer>").to_json() for number, text in enumerate(said)]
    took = {}
    for count in (10_000, 100_000):
        started = time.process_time()
        checked = check_predictions([Prediction.from_json(line) for line in lines[:count]], questions[:count])
        average = score("mmau", checked)["average"]
        took[count] = time.process_time() - started
    assert took[100_000] < 20 * took[10_000]  # quadratic work would take 100 times as long
    assert average.accuracy == pytest.approx(np.isin(said, ["cat", "(B)"]).mean())
    assert average.high - average.low == pytest.approx(2 * 1.96 * np.sqrt(0.24 / 1e5), rel=0.1)
