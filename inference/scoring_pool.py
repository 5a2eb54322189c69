"""Servers that score completions and keep the weights that they were started with."""

import threading
from typing import Any

from typing_extensions import override

from inference.rollout_requests import RolloutRequests
from inference.server_pool import ServerPool

SINCE_START = "default"
"""What vLLM calls the weights that it was started with."""


class ScoringPool(ServerPool):
    """Servers whose model nobody trains.

    Attributes:
        seconds: How long the completions of each question took to be scored, since somebody emptied it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Describe the servers, as :class:`ServerPool` does."""
        super().__init__(*args, **kwargs)
        self.seconds: list[float] = []
        self._over = threading.Event()

    @override
    def close(self) -> None:
        """Close all connections; nobody waits for scores any more."""
        self._over.set()
        super().close()

    def requests(self) -> RolloutRequests:
        """Return what has single requests answered, until the pool is closed."""
        return RolloutRequests((), self.keeper, self.retry_seconds, self.watch_seconds, over=self._over)

    def mean_seconds(self) -> float:
        """Return how long one question's completions took to be scored, on average since the last call."""
        found, self.seconds = self.seconds, []
        return sum(found) / max(len(found), 1)
