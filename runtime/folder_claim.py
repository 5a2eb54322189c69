"""A folder that one run at a time writes to."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from runtime.errors import UserError

CLAIM = ".claim"
"""Name of the file in the folder that the lock is on."""

_HELD = (errno.EAGAIN, errno.EACCES)


@contextlib.contextmanager
def claimed(folder: Path, option: str) -> Iterator[None]:
    """Keep other processes from a folder until the block or this process ends, however it ends.

    The lock is the process' own (POSIX): loader workers that are still there after their parent was killed do not hold
    it, and processes of other machines see it where the file system has locks. Where it has none nothing is kept. The
    file goes at the end of the block; one that is left by a killed process keeps nobody away.

    Args:
        folder: The folder, which is there.
        option: What chooses another one; named to the user.

    Raises:
        UserError: Another process has it.
    """
    owner = os.getpid()
    while True:
        try:
            file = open(folder / CLAIM, "a+", encoding="utf-8")  # noqa: SIM115
        except OSError:
            yield  # whoever writes there will say so
            return
        with file:
            _lock(file, folder, option)
            if not _is_at(file, folder / CLAIM):
                continue  # whoever had it has ended meanwhile, and removed it
            with contextlib.suppress(OSError):  # the disk is full
                os.ftruncate(file.fileno(), 0)
                os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
            try:
                yield
            finally:
                if os.getpid() == owner:  # not a forked worker
                    with contextlib.suppress(OSError):
                        (folder / CLAIM).unlink()
            return


def _lock(file: TextIO, folder: Path, option: str) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            file.seek(0)
            other = file.read().strip() or "its process is not known"
            raise UserError(
                f"{folder} is being written by another run ({other}): wait for it or stop it, or write to another "
                f"folder with {option}"
            ) from None


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False
