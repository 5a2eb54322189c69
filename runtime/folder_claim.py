"""A folder that one run at a time writes to."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from runtime.errors import UserError

CLAIM = ".claim"
"""Name of the file in the folder that the lock is on."""

_HELD = (errno.EAGAIN, errno.EACCES)


@contextlib.contextmanager
def claimed(folder: Path, option: str) -> Iterator[None]:
    """Keep other processes from a folder until the block or this process ends, however it ends.

    The lock is the process' own (POSIX): loader workers that are still there after their parent was killed do not hold
    it, and processes of other machines see it where the file system has locks. Where it has none nothing is kept.

    Args:
        folder: The folder, which is there.
        option: What chooses another one; named to the user.

    Raises:
        UserError: Another process has it.
    """
    try:
        file = open(folder / CLAIM, "a+", encoding="utf-8")  # noqa: SIM115
    except OSError:
        yield  # whoever writes there will say so
        return
    with file:
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
        with contextlib.suppress(OSError):  # the disk is full
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
