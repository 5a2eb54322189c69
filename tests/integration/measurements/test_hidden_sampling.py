"""One batch ahead, the time of sampling is hidden behind the learner's."""

from pathlib import Path

from tests.callbacks.rollout.test_overlap import Slow, fit


def test_sampling_is_hidden_behind_the_learner(tmp_path: Path, server_weights: Path) -> None:
    """The server takes as long as the learner, 0.6 seconds; what a busy machine adds counts in both."""
    seconds = []
    for staleness in (0, 1):
        module = Slow(str(server_weights))
        module.seconds = 0.6
        seconds.append(fit(tmp_path, server_weights, staleness, module, count=8)[2].step)
    assert seconds[1] <= seconds[0] - 0.4, seconds
