"""Whether what lies at a place may be replaced: only what the program itself has written there before."""

from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

from runtime.errors import UserError


def refuse_foreign(target: Path, option: str, kind: str, needed: Collection[str], others: Collection[str] = ()) -> None:
    """Refuse a place where there is something that is not the program's own to replace.

    Args:
        target: Where a folder is to be written, in place of what is there; nothing and an empty folder are fine.
        option: How another place is named, for the message.
        kind: What the program writes there, such as ``an earlier export``.
        needed: Patterns of file names, each of which such a folder has.
        others: Patterns of file names that it may have.

    Raises:
        UserError: Something else is there; the message names it.
    """
    if target.is_dir():
        names = sorted(path.name for path in target.iterdir())
        known = [*needed, *others]
        foreign = [name for name in names if (target / name).is_dir() or not any(fnmatch(name, own) for own in known)]
        lacks = [own for own in needed if not any(fnmatch(name, own) for name in names)]
        if not names or not (foreign or lacks):
            return
        why = f"it holds {', '.join(foreign[:3])}" if foreign else f"{lacks[0]} is missing"
        what = f"is not empty and not {kind} ({why})"
    elif target.exists() or target.is_symlink():
        what = "is a file"
    else:
        return
    raise UserError(f"{target} {what} and would be replaced: name an empty or a new folder with {option}")
