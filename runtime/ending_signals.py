"""Signals that end a stage, and the exit status that says which it was."""

import contextlib
import os
import signal
import sys

COME_AGAIN = 75
"""Status after SIGUSR1 (``EX_TEMPFAIL`` of sysexits.h): the same command goes on from here."""

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def status_after(number: int) -> int:
    """Return the exit status of a process that a signal has ended in order: 128 and its number, as shells have it.

    Args:
        number: The signal; SIGUSR1, by which a scheduler asks for the device back, has a status of its own.
    """
    return COME_AGAIN if number == signal.SIGUSR1 else 128 + number


NAMES = {status_after(number): number.name for number in ENDING}
"""The signal's name by the status."""


def say_at_once(sentence: str) -> None:
    """Write to the standard error output without print, in the middle of which a signal may have come.

    Args:
        sentence: What is written, its line's end included.
    """
    with contextlib.suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, sentence.encode())
