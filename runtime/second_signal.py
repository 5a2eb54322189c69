"""A second signal ends a process whose main thread does not hear: Python's handlers wait until an operation returns.

A collective operation whose other side hangs does not return, and Ctrl-C has no effect then. The system's own handler
still runs; it hands each signal to a thread here.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator

from runtime.ending_signals import ENDING, say_at_once, status_after

SECONDS_TO_HEAR = 5.0
"""Seconds after which a main thread that has not reacted is said to be deaf."""

SECONDS_AFTER_SECOND = 1.0
"""Seconds that it has to react to a further signal before the process ends."""

_COUNTED = frozenset(ENDING) - {signal.SIGUSR1}  # by which a scheduler may ask several times, and waits
_heard_at = 0.0
_pipe: tuple[int, int] | None = None


def heard() -> None:
    """Note that the main thread reacts; to be called by every handler of an ending signal."""
    global _heard_at
    _heard_at = time.monotonic()


@contextlib.contextmanager
def ended_by_second_signal() -> Iterator[None]:
    """Inside the block, end the process at once at a second signal that the main thread does not hear.

    Only the main thread may enter it.
    """
    global _pipe
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    _pipe = reading, writing
    thread = threading.Thread(target=_watch, args=(reading,), name="second signal", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        _pipe = None
        os.write(writing, b"\0")  # no signal's number; a forked child may hold the other end open
        thread.join()
        os.close(reading)
        os.close(writing)


def _watch(reading: int) -> None:
    count, unheard = 0, list[float]()
    last, said = 0, False
    while True:
        if select.select([reading], [], [], 0.2 if unheard else None)[0]:
            for number in os.read(reading, 64):
                if number == 0:
                    return
                if number in _COUNTED:
                    count, last = count + 1, number
                    unheard.append(time.monotonic())
        if unheard and _heard_at > unheard[0] - 1.0:  # the handler may have been quicker than this thread
            unheard, said = [], False
        if not unheard:
            continue
        name = signal.Signals(last).name
        now = time.monotonic()
        if count > 1 and now - unheard[-1] > SECONDS_AFTER_SECOND:
            _say(f"train.py: ended at once by a further {name}; what was written is kept\n")
            os._exit(status_after(last))
        if not said and now - unheard[0] > SECONDS_TO_HEAR:
            said = True
            _say(
                f"train.py: {name} has come, but an operation has not returned for {SECONDS_TO_HEAR:.0f} s (it may "
                "wait for another rank): a second one ends the process at once\n"
            )


def _say(sentence: str) -> None:
    from runtime.all_ranks import is_rank_zero  # with Lightning, which whoever has ranks has imported

    if is_rank_zero():
        say_at_once(sentence)


def _forget() -> None:
    """Let a forked child's signals be its own."""
    global _pipe
    if _pipe is not None:
        signal.set_wakeup_fd(-1)
        for end in _pipe:
            os.close(end)
        _pipe = None


os.register_at_fork(after_in_child=_forget)
