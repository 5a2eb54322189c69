"""Where matplotlib keeps its files when the home folder cannot be written; it looks for its place when it is imported.

Lightning imports it (by torchmetrics) whether or not anything is drawn. Packages that are started from the command line
import this module before anything else.
"""

import atexit
import contextlib
import os
import shutil
import tempfile
from pathlib import Path


def find_room() -> None:
    """Give matplotlib a folder for this process and its children where it would make one with two lines of warning."""
    usual = [
        Path(os.environ.get(variable) or os.path.expanduser(f"~/{hidden}")) / "matplotlib"
        for variable, hidden in (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache"))
    ]
    if "MPLCONFIGDIR" in os.environ or all(map(can_write, usual)):
        return
    with contextlib.suppress(OSError):  # no folder at all can be written, of which others will speak
        os.environ["MPLCONFIGDIR"] = folder = tempfile.mkdtemp(prefix="matplotlib-")
        atexit.register(_remove, folder, os.getpid())


def can_write(folder: Path) -> bool:
    """Tell whether files can be made in a folder, which is made where it is missing.

    Args:
        folder: The folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked child ends earlier
        shutil.rmtree(folder, ignore_errors=True)


find_room()
