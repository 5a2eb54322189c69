"""Lines on standard error while something takes long that has no steps of its own to count."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def under_way(what: str, every_seconds: float = 10.0) -> Iterator[None]:
    """Say what is under way, and now and then for how long.

    Args:
        what: What is under way.
        every_seconds: Seconds between two lines.
    """
    ended, began = threading.Event(), time.monotonic()

    def beat() -> None:
        while not ended.wait(every_seconds):
            print(f"{what}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    print(what, file=sys.stderr, flush=True)
    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
