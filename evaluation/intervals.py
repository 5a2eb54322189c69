"""How far a score can be trusted: bootstrap intervals, and tests of one run against another on the same questions.

Clips are resampled, not questions: the questions on one clip are answered from the same audio.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 1000
LEVEL = 0.95


def bootstrap(
    values: np.ndarray, members: np.ndarray, clips: Sequence[Hashable], resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Return the means of groups in resamples of the clips.

    Args:
        values: One value for each of N questions and each of K groups ``[N, K]``.
        members: True where the question belongs to the group ``[N, K]``.
        clips: Each question's clip.
        resamples: How many resamples are drawn.
        seed: Seed of the draws.

    Returns:
        The means ``[resamples, K]``; NaN where a resample has nothing of a group.
    """
    index = {clip: place for place, clip in enumerate(dict.fromkeys(clips))}
    places = np.array([index[clip] for clip in clips], dtype=np.int64)
    sums = np.zeros((len(index), values.shape[1]))
    sizes = np.zeros_like(sums)
    np.add.at(sums, places, np.where(members, values, 0.0))
    np.add.at(sizes, places, members.astype(float))
    rng = np.random.default_rng(seed)
    means = np.full((resamples, values.shape[1]), np.nan)
    for row in range(resamples if index else 0):
        drawn = np.bincount(rng.integers(len(index), size=len(index)), minlength=len(index)).astype(float)
        size = drawn @ sizes
        np.divide(drawn @ sums, size, out=means[row], where=size > 0)
    return means


def interval(means: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of resampled means ``[resamples]``; NaN where there are none."""
    found = means[~np.isnan(means)]
    if not len(found):
        return float("nan"), float("nan")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same questions.

    Attributes:
        questions: How many questions both answered.
        only_first: How many only the first run got right.
        only_second: How many only the second run got right.
        difference: Accuracy of the second minus that of the first.
        low: Lower end of the difference's interval.
        high: Upper end of the difference's interval.
        mcnemar: Exact two-sided p-value of McNemar's test: were those that only one got right a fair coin's throws?
        bootstrap: Two-sided p-value of the paired bootstrap: how often a resample's difference has the other sign.
    """

    questions: int
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    mcnemar: float
    bootstrap: float


def compare(
    first: Sequence[bool], second: Sequence[bool], clips: Sequence[Hashable], resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare two runs question by question.

    Args:
        first: Whether the first run was right, for each question.
        second: Whether the second run was right, for the same questions.
        clips: Each question's clip.
        resamples: Resamples of the paired bootstrap.
        seed: Seed of the resamples.
    """
    a, b = np.array(first, dtype=bool), np.array(second, dtype=bool)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    gain = b.astype(float) - a
    means = bootstrap(gain[:, None], np.ones((len(gain), 1), dtype=bool), clips, resamples, seed)[:, 0]
    low, high = interval(means)
    return Comparison(
        questions=len(gain),
        only_first=only_first,
        only_second=only_second,
        difference=float(gain.mean()) if len(gain) else float("nan"),
        low=low,
        high=high,
        mcnemar=mcnemar(only_first, only_second),
        bootstrap=_other_sign(means),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test.

    Args:
        only_first: How many only the first run got right.
        only_second: How many only the second run got right.
    """
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)


def _other_sign(means: np.ndarray) -> float:
    """Return a two-sided p-value from resampled differences; the observed sample is counted in, so it is never 0."""
    count = len(means)
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (count + 1))
