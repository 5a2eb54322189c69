"""A lock between processes that also works on file systems without locks."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_POLL_SECONDS = 0.05
_HELD = (errno.EAGAIN, errno.EWOULDBLOCK)


class LockTimeout(OSError):
    """Another process has held the lock for too long."""


def try_flock(file: IO[str]) -> bool | None:
    """Take the file system's lock on an open file, which ends with the process.

    Returns:
        True when it is ours now, False when another process has it, None where the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _HELD else None
    return True


@contextlib.contextmanager
def locked(path: Path, seconds: float, longest: float = 3600.0) -> Iterator[None]:
    """Hold a lock.

    Where the file system has none, a file that can be made only once takes its place; one that a killed process has
    left behind counts no more after ``longest``.

    Args:
        path: The lock's file, which is made.
        seconds: How long to wait for it.
        longest: No holder keeps it for longer.

    Raises:
        LockTimeout: Another process has it and keeps it.
        OSError: The file cannot be made.
    """
    deadline = time.monotonic() + seconds
    with open(path, "w") as file:
        while (ours := try_flock(file)) is False:
            _wait(path, deadline)
        if ours:
            yield
            return
        os.utime(path)
        now = os.stat(path).st_mtime  # by the clock of the file system, which several machines share
        held = path.with_name(path.name + ".held")
        begun = time.monotonic()
        while not _made(held):
            with contextlib.suppress(FileNotFoundError):
                if now + time.monotonic() - begun - os.stat(held).st_mtime > longest:
                    held.unlink()
                    continue
            _wait(path, deadline)
        try:
            yield
        finally:
            held.unlink(missing_ok=True)


def _made(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        return False
    return True


def _wait(path: Path, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise LockTimeout(errno.ETIMEDOUT, "another process holds the lock", str(path))
    time.sleep(_POLL_SECONDS)
