"""A process that does not outlive the one that started it, however that one ends."""

import contextlib
import ctypes
import signal

_PR_SET_PDEATHSIG = 1


def end_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Let the system send this process a signal when its parent is gone; nothing happens where Linux is not.

    Args:
        number: The signal; SIGTERM for a process that has something to put in order.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
