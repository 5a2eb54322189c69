"""Which clips can be decoded: found out once, remembered on disk."""

import json
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from datamodules.audio import MediaError
from datamodules.records import UserError

_SECONDS_BETWEEN_LINES = 10.0


class MediaIndex:
    """Remembers for each clip, by path, size and time of change, whether it could be decoded."""

    def __init__(self, file: Path, load: Callable[[Path], np.ndarray], threads: int = 2) -> None:
        """Open the index.

        Args:
            file: JSON lines on disk; made when it is missing.
            load: Decodes a clip, raising MediaError when that fails.
            threads: How many clips are decoded at once.
        """
        self.file = file
        self.load = load
        self.threads = max(1, threads)
        self._known: dict[tuple[str, int, int], str | None] = {}
        if file.exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    self._known[entry["path"], entry["size"], entry["mtime_ns"]] = entry["error"]
                except (json.JSONDecodeError, KeyError, TypeError):
                    continue  # the last line of a run that was killed; its clip is decoded again

    def check(self, paths: Iterable[Path]) -> dict[Path, str | None]:
        """Return for each clip why it cannot be decoded, or None when it can.

        Prints how far it is every ten seconds.

        Raises:
            UserError: The index cannot be written.
        """
        keys = {path: self._key(path) for path in paths}
        unknown = [path for path, key in keys.items() if key not in self._known]
        if unknown:
            self._decode(unknown, keys)
        return {path: self._known[key] for path, key in keys.items()}

    def _decode(self, paths: list[Path], keys: dict[Path, tuple[str, int, int]]) -> None:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            lines = self.file.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"the index of checked clips cannot be written to {self.file} ({error.strerror}); "
                "set data.report_dir to a folder that can be written, or data.validate_media to false"
            ) from None
        started = spoken = time.monotonic()
        bad = 0
        with lines, ThreadPoolExecutor(self.threads) as pool:
            for done, (path, error_text) in enumerate(zip(paths, pool.map(self._try, paths), strict=True), 1):
                key = keys[path]
                self._known[key] = error_text
                bad += error_text is not None
                entry = {"path": key[0], "size": key[1], "mtime_ns": key[2], "error": error_text}
                lines.write(json.dumps(entry) + "\n")
                now = time.monotonic()
                if now - spoken > _SECONDS_BETWEEN_LINES:
                    spoken = now
                    lines.flush()
                    left = (now - started) / done * (len(paths) - done)
                    rank_zero_info(
                        f"Checking clips: {done} of {len(paths)} decoded, {bad} bad, about {left:.0f} s left "
                        "(this happens once)"
                    )

    def _try(self, path: Path) -> str | None:
        try:
            self.load(path)
        except MediaError as error:
            return str(error)
        return None

    @staticmethod
    def _key(path: Path) -> tuple[str, int, int]:
        stat = os.stat(path)
        return os.path.abspath(path), stat.st_size, stat.st_mtime_ns
