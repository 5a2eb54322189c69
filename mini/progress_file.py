"""What a run of the pipeline has done, on disk, so that an interrupted one goes on where it was."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.whole_file import write_whole


class ProgressFile:
    """Steps that are done, each with its result, in one JSON file that is never half written.

    Attributes:
        done: Result of each step that is done, by name.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Begin afresh.

        Args:
            path: The file.
            settings: What the results depend on.
        """
        self.path = path
        self.settings = dict(settings)
        self.done: dict[str, Any] = {}

    def read(self, whatever: bool = False) -> None:
        """Take over what an earlier run has done; nothing where there is no file.

        Args:
            whatever: Accept a run with other settings.

        Raises:
            UserError: That run had other settings, or the file is none of a run.
        """
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} cannot be read ({error}): remove it, or set --output") from None
        if not _is_progress(found):
            raise UserError(f"{self.path} is of another program: choose another folder with --output")
        if found["settings"] != self.settings and not whatever:
            other = ", ".join(f"{name} {value}" for name, value in found["settings"].items())
            raise UserError(
                f"{self.path.parent} holds a run with {other}: go on with these, or choose another folder with --output"
            )
        self.done = found["done"]

    def finish(self, step: str, result: Any = None) -> None:
        """Note that a step is done.

        Args:
            step: Its name.
            result: What it found, as plain JSON.
        """
        self.done[step] = result
        self.write()

    def write(self) -> None:
        """Write the file.

        Raises:
            UserError: It cannot be written; what was there before stays.
        """
        text = json.dumps({"settings": self.settings, "done": self.done}, indent=2)
        try:
            write_whole(self.path, [text, "\n"], lasting=True)
        except OSError as error:
            raise UserError(f"{self.path} cannot be written ({error.strerror})") from None


def _is_progress(found: Any) -> bool:
    return isinstance(found, dict) and all(isinstance(found.get(name), dict) for name in ("settings", "done"))
