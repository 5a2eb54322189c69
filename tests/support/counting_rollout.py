"""In-process rollouts that count what they are asked, and may be interrupted."""

from typing import Any

from callbacks.rollout.local_rollout import LocalRollout


class Interrupted(Exception):
    pass


class CountingRollout(LocalRollout):
    """Counts the questions that are asked.

    Args:
        fail_after: Questions after which it fails; never unless given.
    """

    asked = 0

    def __init__(self, fail_after: int | None = None) -> None:
        super().__init__(max_new_tokens=4)
        self.fail_after = fail_after
        CountingRollout.asked = 0

    def sample(self, trainer: Any, pl_module: Any, batch: Any, sampling: Any) -> Any:
        if self.fail_after is not None and CountingRollout.asked >= self.fail_after:
            raise Interrupted
        CountingRollout.asked += len(batch)
        return super().sample(trainer, pl_module, batch, sampling)
