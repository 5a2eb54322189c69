"""The best score so far, by which weights are exported and runs are compared."""

from records.best_score import BestScore


def test_the_first_of_equal_scores_stays_and_a_resumed_run_goes_on() -> None:
    best = BestScore()
    assert [best.improves(value, step) for step, value in enumerate((0.5, 0.5, 0.4, 0.6))] == [True, False, False, True]
    resumed = BestScore()
    resumed.load_state_dict(best.state_dict())
    assert not resumed.improves(0.55, 4) and (resumed.value, resumed.step) == (0.6, 3)


def test_the_lowest_is_best_where_the_configuration_says_so() -> None:
    best = BestScore("min")
    assert [best.improves(value, step) for step, value in enumerate((0.5, 0.6, 0.4))] == [True, False, True]
    assert best.state_dict() == {"best": 0.4, "best_step": 2}
