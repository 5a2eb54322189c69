"""Where the time of a step goes."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Laps:
    """A stopwatch; each lap is added to the part that it belongs to.

    The language model tells by itself when it begins and ends, in which of the two forward passes (the reference's has
    no gradient), and when the gradient reaches its output.
    """

    def __init__(self, language_model: nn.Module, device: torch.device | str = "cpu", clock: str = "wall") -> None:
        """Watch a language model.

        Args:
            language_model: The module between embeddings and head.
            device: Waited for before the clock is read.
            clock: ``wall``, or ``cpu`` for the time of this process on a machine that is shared.
        """
        self.clock = time.process_time if clock == "cpu" else time.perf_counter
        self.device = device
        self.parts: dict[str, float] = {}
        self.phase = ""
        self._last = 0.0
        language_model.register_forward_pre_hook(self._before)
        language_model.register_forward_hook(self._after)

    def start(self) -> None:
        """Forget the last step."""
        self.parts = defaultdict(float)
        self._last = self._now()
        self._begun = self._last

    def mark(self, part: str) -> None:
        """Add the time since the last mark to a part of the present phase."""
        at = self._now()
        self.parts[f"{self.phase} {part}"] += at - self._last
        self._last = at

    def begin_backward(self) -> None:
        """The forward pass has ended with the loss."""
        self.mark("head")
        self.phase = "backward"

    @property
    def seconds(self) -> float:
        """From the start to the last mark."""
        return self._last - self._begun

    def _now(self) -> float:
        return now(self.device, self.clock)

    def _before(self, *_: Any) -> None:
        self.phase = "policy" if torch.is_grad_enabled() else "reference"
        self.mark("audio")

    def _after(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.mark("language model")
        hidden: Tensor = output.last_hidden_state
        if hidden.requires_grad:
            hidden.register_hook(lambda _: self.mark("head"))


def now(device: torch.device | str, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the time at which a device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return clock()
