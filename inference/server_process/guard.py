"""Runs a command of which nothing is left: ``python guard.py PARENT FOLDER COMMAND...``.

Whoever starts a server may be killed, and then nobody ends it; and a vLLM API process that is killed leaves its engine
behind. So a guard stands between the two. It ends everything that stems from the command as soon as the command or
the process that started the guard has ended, deletes the command's folder, and passes the command's status on. It runs
on the standard library alone.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

COMMAND_SECONDS = 10.0
"""Time that the command has to end by itself."""

REST_SECONDS = 3.0
"""Time that what the command has left behind has to end by itself."""

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SLICE = 0.25


def main(args: Sequence[str]) -> int:
    """Run a command until it or its parent has ended.

    Args:
        args: Process id of the parent, a folder that is deleted in the end, and the command.

    Returns:
        The command's exit status.
    """
    parent, folder, *command = args
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans of the command become children of the guard
    signal.pthread_sigmask(signal.SIG_BLOCK, (*ENDING, signal.SIGCHLD))
    child = subprocess.Popen(command, preexec_fn=_follow)
    status = _watch(child.pid, int(parent))
    _end_rest()
    shutil.rmtree(folder, ignore_errors=True)
    child.returncode = status
    return 128 - status if status < 0 else status


def _follow() -> None:
    """Be told to end when the guard is killed, and take signals as usual."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*ENDING, signal.SIGCHLD))


def _watch(child: int, parent: int) -> int:
    """Wait for the command, ask it to end when its parent has ended or the guard is told to, and return its status."""
    deadline = float("inf")
    while True:
        if (status := _reap(child)) is not None:
            return status
        met = signal.sigtimedwait((*ENDING, signal.SIGCHLD), SLICE)
        told = met is not None and met.si_signo != signal.SIGCHLD
        if deadline == float("inf") and (told or os.getppid() != parent):
            deadline = time.monotonic() + COMMAND_SECONDS
            _signal(child, signal.SIGTERM)
        if time.monotonic() > deadline:
            _signal(child, signal.SIGKILL)


def _reap(child: int) -> int | None:
    """Collect whoever has ended; return the command's status when it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, code = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                status = os.waitstatus_to_exitcode(code)
    return status


def _end_rest() -> None:
    """End what the command has left behind: politely, then at once."""
    deadline = time.monotonic() + REST_SECONDS
    number = signal.SIGTERM
    told: set[int] = set()
    while rest := _descendants():
        if time.monotonic() > deadline:
            number, told = signal.SIGKILL, set()
        for pid in set(rest) - told:
            _signal(pid, number)
        told.update(rest)
        signal.sigtimedwait((signal.SIGCHLD,), 0.05)
        _reap(-1)


def _descendants() -> list[int]:
    """Return all processes that stem from this one."""
    children: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            parent = int(file.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(file.parent.name))
    found = list(children.get(os.getpid(), []))
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
