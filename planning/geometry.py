"""Sizes of students: those that are known here, and those of any folder with a ``config.json``."""

from pathlib import Path

from runtime.errors import UserError

KNOWN = Path(__file__).parent / "geometries"
"""Folders with the facts of released configurations."""

DEFAULT = "Qwen2-Audio-7B"


def find_geometry(weights: str, geometry: str | None = None) -> Path:
    """Return the folder with the ``config.json`` of a student.

    Args:
        weights: Hub name or directory, as a configuration names it.
        geometry: A known student's name or a folder, when it is not to be that of ``weights``.

    Raises:
        UserError: No student is known by that name and there is no such folder.
    """
    for name in [geometry] if geometry else [weights]:
        if (Path(name) / "config.json").is_file():
            return Path(name)
        for known in sorted(KNOWN.iterdir(), reverse=True):
            if name.rpartition("/")[2].startswith(known.name):
                return known
    if geometry or not weights.startswith(("runs/", "./runs/")):
        names = ", ".join(sorted(known.name for known in KNOWN.iterdir()))
        raise UserError(
            f"no geometry is known of {geometry or weights!r}: give --geometry one of {names}, or a folder with the "
            "config.json of its checkpoint"
        )
    return KNOWN / DEFAULT  # what an earlier stage is going to write
