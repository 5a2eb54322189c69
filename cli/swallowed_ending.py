"""An ending that Python has swallowed comes again.

What is raised in a finalizer, in a weak reference's callback or in a hook of ``os.fork`` is printed and dropped: a
signal that comes in the middle of one would be lost, and a DataLoader forks its workers as each loop begins.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from runtime.uninterrupted import END_NOW

_SOON = 0.02  # seconds, after which the main thread has left what swallows


@contextlib.contextmanager
def raised_again(is_ending: Callable[[object], bool], is_worker: Callable[[], bool]) -> Iterator[None]:
    """Raise endings again that were swallowed inside the block.

    Args:
        is_ending: Says whether an exception ends the process.
        is_worker: Says whether this is a process that was forked inside the block: those end with their parent.
    """
    before = sys.unraisablehook

    def hook(found: "sys.UnraisableHookArgs") -> None:
        ending = found.exc_value
        if ending is None or not is_ending(ending):
            before(found)
        elif not is_worker():

            def end(number: int, frame: FrameType | None) -> None:
                raise ending

            signal.signal(END_NOW, end)
            messengers.append(
                threading.Timer(_SOON, signal.pthread_kill, (threading.main_thread().ident or 0, END_NOW))
            )
            messengers[-1].start()

    handler, messengers = signal.getsignal(END_NOW), list[threading.Timer]()
    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        if messengers:
            messengers[-1].cancel()
            messengers[-1].join()
            signal.signal(END_NOW, signal.SIG_DFL if handler is None else handler)
