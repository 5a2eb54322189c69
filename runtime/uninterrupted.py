"""Steps that a signal may not break into."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from runtime.ending_signals import ENDING
from runtime.second_signal import heard

END_NOW: signal.Signals = getattr(signal, "SIGRTMIN", signal.SIGUSR2)
"""What a thread of this process sends the main thread to end the stage."""

_ENDING = (*ENDING, END_NOW)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put ending signals off until the block is done, so that what is taken is written, and written whole."""
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield
        return
    came: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        heard()
        came.append(signal.Signals(number))

    handlers = {number: signal.getsignal(number) for number in _ENDING}
    try:
        for number in [number for number, handler in handlers.items() if handler is not signal.SIG_IGN]:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    for number in came[:1]:
        signal.raise_signal(number)
