"""Work that goes on while the trainer does something else."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """One call in a thread of its own; an interrupted run does not wait for it."""

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

    def result(self) -> T:
        """Wait and return what the call returned, or raise what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _run(self) -> None:
        begun = time.perf_counter()
        try:
            self._result.append(self._work())
        except BaseException as error:
            self._error = error
        self.seconds = time.perf_counter() - begun
