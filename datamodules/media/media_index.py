"""Which clips can be decoded, and how long they are: found out once, remembered on disk.

A clip that cannot be decoded would end a run hours after its start. To look at all of AVQA's 57,000 takes more than an
hour of a core, each time anew if nothing were kept.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from datamodules.media.audio import SAMPLE_RATE, MediaError
from datamodules.media.media_files import is_lasting, unreadable
from datamodules.media.segments import Place, file_of, key_of
from runtime.errors import UserError

P = TypeVar("P", bound=Place)

_SECONDS_BETWEEN_LINES = 10.0
_VERSION = 2
"""Raise it when clips can be decoded that could not be before, or the other way round: all are then decoded again."""


class MediaIndex(Generic[P]):
    """Remembers for each clip, by path, part of the file, size and time of change, whether it could be decoded.

    What is the machine's fault (memory ran out, a disk does not answer) is not remembered: the next run tries again.
    """

    def __init__(
        self, file: Path, load: Callable[[P], np.ndarray], threads: int = 2, max_seconds: float | None = None
    ) -> None:
        """Open the index.

        Args:
            file: JSON lines on disk; made when it is missing.
            load: Decodes a clip, raising MediaError when that fails.
            threads: How many clips are decoded at once.
            max_seconds: How much of a clip ``load`` decodes at most; what was found for another limit does not count.
        """
        self.file = file
        self.load = load
        self.threads = max(1, threads)
        self.max_seconds = max_seconds
        self._known: dict[tuple[str, int, int], str | None] = {}
        self._seconds: dict[tuple[str, int, int], float] = {}
        if file.exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    if (entry["version"], entry["max_seconds"]) != (_VERSION, max_seconds):
                        continue
                    key = entry["path"], entry["size"], entry["mtime_ns"]
                    self._known[key] = entry["error"]
                    self._seconds[key] = float(entry.get("seconds") or 0.0)
                except (json.JSONDecodeError, KeyError, TypeError):
                    continue  # the last line of a run that was killed; its clip is decoded again

    def check(self, paths: Iterable[P]) -> dict[P, str | None]:
        """Return for each clip why it cannot be decoded, or None when it can.

        Prints how far it is every ten seconds.

        Raises:
            UserError: The index cannot be written.
        """
        keys, lost = {}, {}
        for path in paths:
            try:
                keys[path] = self._key(path)
            except OSError as error:  # it was there when the row was read
                lost[path] = str(unreadable(file_of(path), error))
        unknown = [path for path, key in keys.items() if key not in self._known]
        if unknown:
            self._decode(unknown, keys)
        return {path: self._known[key] for path, key in keys.items()} | lost

    def seconds(self, path: P) -> float:
        """Return the length of a clip that was checked; 0 where it is unknown."""
        with contextlib.suppress(OSError):
            return self._seconds.get(self._key(path), 0.0)
        return 0.0

    def _decode(self, paths: list[P], keys: dict[P, tuple[str, int, int]]) -> None:
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
            for done, (path, found) in enumerate(zip(paths, pool.map(self._try, paths), strict=True), 1):
                key, (error_text, seconds, lasting) = keys[path], found
                self._known[key], self._seconds[key] = error_text, seconds
                bad += error_text is not None
                if lasting:
                    entry: dict[str, Any] = {"path": key[0], "size": key[1], "mtime_ns": key[2], "error": error_text}
                    entry |= {"seconds": seconds, "max_seconds": self.max_seconds, "version": _VERSION}
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

    def _try(self, path: P) -> tuple[str | None, float, bool]:
        """Return the error or None, the length in seconds, and whether the next run would find the same."""
        try:
            # the length as on disk, so that all processes sort alike
            return None, round(len(self.load(path)) / SAMPLE_RATE, 2), True
        except MediaError as error:
            return str(error), 0.0, is_lasting(error)

    @staticmethod
    def _key(path: Place) -> tuple[str, int, int]:
        stat = os.stat(file_of(path))
        return key_of(path), stat.st_size, stat.st_mtime_ns
