"""Work that goes on in a thread while this one does something else."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """One call in a thread of its own, whose failure is raised where it is waited for.

    It goes on when nobody waits any more, and the process ends without it.

    Attributes:
        seconds: How long the call took; 0 before its end.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        """Begin.

        Args:
            work: What is called.
        """
        self._work = work
        self._result: list[T] = []
        self._error: BaseException | None = None
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self, seconds: float | None = None) -> bool:
        """Wait, and raise what was raised.

        Args:
            seconds: Not longer than this.

        Returns:
            Whether it has come to its end.
        """
        self._thread.join(seconds)
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()

    def result(self) -> T:
        """Wait and return what the call returned, or raise what it raised."""
        self.join()
        return self._result[0]

    def _run(self) -> None:
        begun = time.perf_counter()
        try:
            self._result.append(self._work())
        except BaseException as error:
            self._error = error
        self.seconds = time.perf_counter() - begun
