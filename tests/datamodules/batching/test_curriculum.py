"""Draws by success rates: by hand, over ranks, and through interruptions."""

from collections import Counter

import pytest

from datamodules.batching.curriculum import Curriculum, CurriculumSettings, draw_by_weight, weight
from datamodules.batching.sampler import Position, TrainBatchSampler

IDS = [f"q{number}" for number in range(40)]


@pytest.mark.parametrize(("rate", "expected"), [(None, 1), (0.5, 1), (0.25, 0.75), (0.0, 0.1), (1.0, 0.1), (0.99, 0.1)])
def test_weights(rate: float | None, expected: float) -> None:
    assert weight(rate, 0.1) == pytest.approx(expected)


def test_rates_run() -> None:
    made = Curriculum(CurriculumSettings(10, momentum=0.75))
    made.add([("a", 1.0), ("b", 0.5)], 1)
    made.add([("a", 0.0)], 2)
    assert made.rates == {"a": 0.75, "b": 0.5}


def test_draws_are_in_proportion_and_without_repetition() -> None:
    firsts = Counter(draw_by_weight([1.0, 3.0], 1, f"{number}")[0] for number in range(4000))
    assert firsts[1] / 4000 == pytest.approx(0.75, abs=0.03)
    assert sorted(draw_by_weight([0.1] * 5 + [1.0], 6, "all")) == list(range(6))
    assert (
        draw_by_weight([1.0] * 40, 7, "a") == draw_by_weight([1.0] * 40, 7, "a") != draw_by_weight([1.0] * 40, 7, "b")
    )


def run(world_size: int = 1, batch_size: int = 4, stop: int = 100, state: dict | None = None, at: int = 0):
    """Global batches of two epochs in which even questions are always answered rightly, and the state at ``stop``."""
    made = Curriculum(CurriculumSettings(3, floor=0.01))
    if state is not None:
        made.restore(state)
    place = [Position(at // 10, at % 10)]
    samplers = [
        TrainBatchSampler(40, batch_size, 5, rank, world_size, lambda: place[0], curriculum=made, ids=IDS)
        for rank in range(world_size)
    ]
    seen = []
    while place[0].epoch < 2:
        epoch = place[0].epoch
        ranks = [iter(sampler) for sampler in samplers]
        for batch in range(place[0].batch, 10):
            together = [item for one in ranks for item in next(one)]
            seen.append(together)
            made.add([(IDS[item], 1.0 if item % 2 == 0 else 0.5) for item in together], batch + 1)
            if epoch * 10 + batch + 1 == stop:
                return seen, made.state()
        place[0] = Position(epoch + 1, 0)
    return seen, made.state()


def test_easy_questions_come_less_often() -> None:
    seen, _ = run()
    early, late = [Counter(item % 2 for batch in part for item in batch) for part in (seen[:3], seen[12:])]
    assert late[1] / late.total() > 0.8 and early[0] > 0
    for start in (0, 3, 6, 10, 13, 16):
        together = [item for batch in seen[start : start + 3] for item in batch]
        assert len(set(together)) == len(together)  # none comes twice in a round


def test_two_ranks_draw_what_one_draws() -> None:
    assert run(2, 2) == run(1, 4)


@pytest.mark.parametrize("stop", [2, 3, 7, 10, 14])
def test_a_resumed_run_draws_the_same(stop: int) -> None:
    whole, _ = run()
    before, state = run(stop=stop)
    after, _ = run(state=state, at=stop)
    assert before + after == whole


def test_loaders_may_run_ahead_by_a_round() -> None:
    """All of a round is asked for when the one before it has begun; a draw does not depend on when it is made."""
    whole, _ = run()
    made = Curriculum(CurriculumSettings(3, floor=0.01))
    asked = iter(TrainBatchSampler(40, 4, 5, position=Position, curriculum=made, ids=IDS))
    ahead = [next(asked) for _ in range(3)]
    for batch in range(10):
        ahead += [one for one in [next(asked, None)] if one is not None]
        made.add([(IDS[item], 1.0 if item % 2 == 0 else 0.5) for item in ahead[batch]], batch + 1)
    assert ahead == whole[:10]
