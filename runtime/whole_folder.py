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
    remove_path(partial_of(target))
    old = _old_of(target)
    if old.exists() and not target.exists():
        os.rename(old, target)  # it ended between the two renames of a system that cannot swap
    remove_path(old)


def remove_path(path: Path) -> None:
    """Remove a file or a folder with all that is in it, as far as that can be done.

    Args:
        path: It need not be there.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def replace_folder(fresh: Path, target: Path, lasting: bool = True) -> None:
    """Put a folder in the place of another one; ``target`` is never absent or half there where the system can swap.

    Args:
        fresh: The new folder, which is gone afterwards; it may be a file, and so may what it takes the place of.
        target: The place.
        lasting: Also after a power cut.
    """
    for file in [fresh, *fresh.rglob("*")] if lasting else ():
        if file.is_file():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
    if not target.exists():
        os.rename(fresh, target)
    elif _exchange(fresh, target):
        remove_path(fresh)
    else:
        old = _old_of(target)
        remove_path(old)
        os.rename(target, old)
        os.rename(fresh, target)
        remove_path(old)
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
