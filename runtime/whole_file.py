"""A file that is there complete or not at all, whatever happens to the process that writes it."""

import contextlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

PARTIAL = ".partial"
"""Ends the name of a file while it is written."""


@contextlib.contextmanager
def whole_file(target: Path, lasting: bool = False) -> Iterator[Path]:
    """Yield the path of a new file that takes the place of ``target`` when the block ends without an error.

    Where several processes or threads write the same file each has a new one of its own, and the last one stays.

    Args:
        target: The place; its folder is made.
        lasting: A power cut, too, leaves either the new file or what was there before.

    Raises:
        OSError: It cannot be written; what was written of it is removed, ``target`` is as before.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        yield partial
        if lasting:
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, target)
        if lasting:
            sync_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_whole(target: Path, lines: Iterable[str], lasting: bool = False) -> None:
    """Write a text file by :func:`whole_file`.

    Args:
        target: The place; its folder is made.
        lines: What to write.
        lasting: As for :func:`whole_file`.

    Raises:
        OSError: It cannot be written.
    """
    with whole_file(target, lasting) as partial, open(partial, "w", encoding="utf-8") as file:
        file.writelines(lines)


def remove_partial(folder: Path, names: str = "*", seconds: float = 0.0) -> None:
    """Remove what processes that were killed had written of files.

    Args:
        folder: Where to look.
        names: Pattern of the files' places in it.
        seconds: Leave alone what has changed within so many seconds, which another process may be writing.
    """
    for left in folder.glob(f"{names}{PARTIAL}"):
        with contextlib.suppress(FileNotFoundError):
            if left.is_file() and time.time() - left.stat().st_mtime >= seconds:
                left.unlink()


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut.

    Args:
        folder: The folder.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
