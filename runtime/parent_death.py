"""A process that does not outlive the one that started it, however that one ends."""

import contextlib
import ctypes
import multiprocessing
import os
import signal

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Let the system kill this process when its parent is gone; nothing happens where Linux is not."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if (
        parent is not None
        and multiprocessing.get_start_method(allow_none=True) in (None, "fork")
        and os.getppid() != parent.pid
    ):
        os._exit(1)  # it was gone before the system was asked
