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
    """Put files back as they were, or absent, if the block fails before the run has begun.

    Args:
        begun: Tells whether there is something that a next run can go on with.
        files: Small files that nobody else writes meanwhile.
    """
    before = {file: file.read_bytes() if file.is_file() else None for file in files}
    try:
        yield
    except BaseException:
        if not begun():
            with contextlib.suppress(OSError):
                for file, content in before.items():
                    if content is None:
                        file.unlink(missing_ok=True)
                    else:
                        file.write_bytes(content)
        raise
