"""A folder that is there complete or not at all, whatever happens to the process that writes it."""

import contextlib
import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from runtime.errors import UserError
from runtime.whole_file import PARTIAL, sync_folder

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def whole_folder(target: Path, nbytes: int = 0, lasting: bool = True) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``target`` when the block ends without an error.

    Args:
        target: The place.
        nbytes: What will be written, to be named when there is no room for it; 0 where it is not known.
        lasting: Also after a power cut.

    Raises:
        UserError: It could not be written; what was written of it is removed, ``target`` is as before.
    """
    partial = partial_of(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        recover_folder(target)
        partial.mkdir()
        yield partial
        replace_folder(partial, target, lasting)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno in _NO_ROOM:
            free = shutil.disk_usage(target.parent).free
            needed = f"{nbytes:,} bytes are" if nbytes else "more is"
            raise UserError(
                f"no room for {target}: {needed} needed beside what is there, {free:,} are free on its disk; make room "
                "or write to another folder, what was there before is unchanged"
            ) from error
        raise UserError(f"{target} cannot be written ({error.strerror or error})") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def partial_of(target: Path) -> Path:
    """Return where a folder is written before it takes its place."""
    return target.with_name(f".{target.name}{PARTIAL}")


def recover_folder(target: Path) -> None:
    """Clear up after a process that was killed while it wrote: at the place is the last complete folder, or none.

    Args:
        target: The place; nobody writes to it at present.
    """
    shutil.rmtree(partial_of(target), ignore_errors=True)
    old = _old_of(target)
    if old.is_dir() and not target.exists():
        os.rename(old, target)  # it ended between the two renames of a system that cannot swap
    shutil.rmtree(old, ignore_errors=True)


def replace_folder(fresh: Path, target: Path, lasting: bool = True) -> None:
    """Put a folder in the place of another one; ``target`` is never absent or half there where the system can swap.

    Args:
        fresh: The new folder, which is gone afterwards.
        target: The place.
        lasting: Also after a power cut.
    """
    for file in fresh.rglob("*") if lasting else ():
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
    if not target.exists():
        os.rename(fresh, target)
    elif _exchange(fresh, target):
        shutil.rmtree(fresh, ignore_errors=True)
    else:
        old = _old_of(target)
        shutil.rmtree(old, ignore_errors=True)
        os.rename(target, old)
        os.rename(fresh, target)
        shutil.rmtree(old, ignore_errors=True)
    if lasting:
        sync_folder(target.parent)


def _old_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where the file system cannot.

    Python has no call for it. Without it a stage or a server that reads the exported weights between the two renames,
    or after a kill between them, would find none; network file systems, which cannot swap, have that moment.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
