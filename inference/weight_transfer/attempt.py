"""Something that may never end, and is not waited for for ever."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from inference.weight_transfer.receivers import TransferBroken

T = TypeVar("T")

AFTERMATH_SECONDS = 15.0
"""Time that one side has to come to its end after the other has failed."""


class Attempt(Generic[T]):
    """One call in a thread of its own, which goes on when nobody waits any more."""

    def __init__(self, work: Callable[[], T]) -> None:
        """Begin.

        Args:
            work: What is called.
        """
        self._work = work
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self, seconds: float) -> bool:
        """Wait, and raise what was raised.

        Args:
            seconds: How long.

        Returns:
            Whether it has come to its end.
        """
        self._thread.join(seconds)
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()

    def result(self, seconds: float, otherwise: str) -> T:
        """Wait, and return what the call returned.

        Args:
            seconds: How long.
            otherwise: What is said when it takes longer.

        Raises:
            TransferBroken: It takes longer.
        """
        if not self.join(seconds):
            raise TransferBroken(f"{otherwise} within {seconds:.0f} s")
        return self._result[0]

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except BaseException as error:
            self._error = error
