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

    def read(self) -> None:
        """Take over what an earlier run has done; nothing where there is no file.

        Raises:
            UserError: That run had other settings.
        """
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        if found["settings"] != self.settings:
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
        text = json.dumps({"settings": self.settings, "done": self.done}, indent=2)
        write_whole(self.path, [text, "\n"], lasting=True)
