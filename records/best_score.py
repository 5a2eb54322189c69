"""The best score of a run so far."""

from dataclasses import dataclass
from typing import Any, Literal

Mode = Literal["max", "min"]


@dataclass
class BestScore:
    """The best of the scores that were shown, and when it was.

    Attributes:
        mode: Whether the highest (``max``) or the lowest (``min``) is the best.
        value: The score; None before the first.
        step: The optimizer step at which it was measured; None before the first.
    """

    mode: Mode = "max"
    value: float | None = None
    step: int | None = None

    def improves(self, value: float, step: int) -> bool:
        """Take over a score that is better than all before; of equal ones the first stays.

        Args:
            value: The score.
            step: The optimizer step at which it was measured.

        Returns:
            Whether it is better.
        """
        sign = 1 if self.mode == "max" else -1
        better = self.value is None or sign * value > sign * self.value
        if better:
            self.value, self.step = value, step
        return better

    def state_dict(self) -> dict[str, Any]:
        """Return it for a callback's state."""
        return {"best": self.value, "best_step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.value, self.step = state["best"], state["best_step"]
