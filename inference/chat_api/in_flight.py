"""Many pieces of work at once on an event loop of its own, with a limit that holds the caller back."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class LastResult(Exception):
    """A piece of work has a result, and an error that ends all work.

    Attributes:
        result: What would have been returned.
        error: What is to be raised to the caller.
    """

    def __init__(self, result: Any, error: Exception) -> None:
        super().__init__(str(error))
        self.result = result
        self.error = error


class BoundedPool(Generic[T]):
    """Runs coroutines on a thread of their own and hands back what they return, in the order in which they end.

    ``submit`` waits while ``limit`` pieces are under way: whatever prepares work ahead is held back with it, so that
    memory does not grow with the corpus. An exception of any piece is raised at the next call.
    """

    def __init__(self, limit: int) -> None:
        """Start with nothing under way; the thread starts with the first piece.

        Args:
            limit: Pieces that may be under way at once.
        """
        self.limit = limit
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._running = 0
        self._finished: list[T] = []
        self._error: BaseException | None = None

    def submit(self, work: Coroutine[Any, Any, T]) -> None:
        """Begin a piece of work, after waiting for a place.

        Raises:
            Exception: What an earlier piece raised.
        """
        with self._changed:
            while self._running >= self.limit and self._error is None:
                self._changed.wait(1.0)
            if self._error is not None:
                work.close()
                raise self._error
            self._running += 1
        asyncio.run_coroutine_threadsafe(self._run(work), self._event_loop())

    def finished(self) -> list[T]:
        """Return what has ended since the last call, without waiting."""
        with self._changed:
            done, self._finished = self._finished, []
            return done

    def wait(self) -> Iterator[None]:
        """Yield whenever something has ended and can be taken (:meth:`finished`), until nothing is under way.

        Raises:
            Exception: What a piece raised, after everything that had ended before could be taken.
        """
        over = False
        while not over:
            with self._changed:
                while self._running and not self._finished and self._error is None:
                    self._changed.wait(1.0)
                over = not self._running or self._error is not None
                some = bool(self._finished)
            if some:
                yield
        if self._error is not None:
            raise self._error

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None, patience: float = 0.0) -> None:
        """Give up what is under way and end the thread; what has ended by then can still be taken.

        Args:
            last: Run on the event loop at the end, for example to close connections.
            patience: Seconds that what is under way gets to end by itself.
        """
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is None or thread is None:
            return

        async def give_up() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            if tasks and patience > 0:
                await asyncio.wait(tasks, timeout=patience)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if last is not None:
                await last()
            loop.stop()

        asyncio.run_coroutine_threadsafe(give_up(), loop)
        thread.join(10 + patience)
        if not thread.is_alive():
            loop.close()

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="requests", daemon=True)
            self._thread.start()
        return self._loop

    async def _run(self, work: Coroutine[Any, Any, T]) -> None:
        result: list[T] = []
        error: BaseException | None = None
        try:
            result.append(await work)
        except asyncio.CancelledError:
            pass
        except LastResult as last:
            result.append(last.result)
            error = last.error
        except BaseException as raised:
            error = raised
        with self._changed:
            self._running -= 1
            self._finished.extend(result)
            self._error = self._error or error
            self._changed.notify_all()
