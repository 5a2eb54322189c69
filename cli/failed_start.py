"""A run that fails before its first batch leaves its folder as it found it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder, and remove it (and those above that were made with it) if the block fails and leaves it empty.

    Args:
        folder: The folder.

    Raises:
        OSError: It cannot be made.
    """
    fresh = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for one in fresh:
                one.rmdir()
        raise


@contextlib.contextmanager
def undone_unless(begun: Callable[[], bool], files: Sequence[Path]) -> Iterator[None]:
    """Remove files that the block has made if it fails before the run has begun; those of an earlier run stay.

    Args:
        begun: Tells whether there is something that a next run can go on with.
        files: Files that nobody else writes meanwhile.
    """
    fresh = [file for file in files if not file.exists()]
    try:
        yield
    except BaseException:
        if not begun():
            with contextlib.suppress(OSError):
                for file in fresh:
                    file.unlink(missing_ok=True)
        raise
