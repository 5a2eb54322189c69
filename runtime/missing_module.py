"""One sentence where a program was started with another Python than the environment's, in place of a traceback.

Packages whose modules are started from the command line import ``runtime`` before anything that has to be installed.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

ENVIRONMENT = Path(__file__).resolve().parents[1] / ".venv"
"""Where ``make env`` installs everything."""


def name_environment() -> None:
    """Let a module that is missing be answered by the way to the environment, unless this is the environment."""
    if Path(sys.prefix).resolve() == ENVIRONMENT.resolve():
        return
    usual = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, ModuleNotFoundError) and error.name and not _is_ours(error.name):
            print(way_out(error.name, sys.orig_argv), file=sys.stderr, flush=True)
        else:
            usual(kind, error, trace)

    sys.excepthook = hook


def way_out(module: str, command: Sequence[str]) -> str:
    """Return how to start a program so that its modules are there.

    Args:
        module: The module that is missing.
        command: How the program was started.
    """
    python = os.path.relpath(ENVIRONMENT / "bin" / "python")
    install = "" if ENVIRONMENT.is_dir() else "`make env` installs it, then "
    return (
        f"{command[0]} is not this project's environment, it has no module {module.partition('.')[0]}: "
        f"{install}`{shlex.join([python, *command[1:]])}`"
    )


def _is_ours(module: str) -> bool:
    return (ENVIRONMENT.parent / module.partition(".")[0]).exists()
