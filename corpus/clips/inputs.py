"""What clips are made from: a folder, a manifest, or WebDataset shards; read as a stream."""

import csv
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus.clips.records import Input, LeftOut
from corpus.clips.tar_shards import VIDEOS
from datamodules.media.media_files import MediaError, resolve_media
from records.valid_text import valid_texts
from runtime.errors import UserError

_NUMBERS = frozenset({"start", "end"})


@dataclass(frozen=True)
class Inputs:
    """Where videos are.

    Attributes:
        root: The folder that all paths are relative to, and that none leads out of.
        manifest: A JSONL or CSV file with a row for each file or part of one: path, and where it is known start, end,
            license and source.
        shards: Pattern of tar archives below ``root``. With neither, all videos below ``root``.
        follow_links: Accept symbolic links that lead out of ``root``.
    """

    root: Path
    manifest: Path | None = None
    shards: str | None = None
    follow_links: bool = False

    def __post_init__(self) -> None:
        """Refuse what is not there.

        Raises:
            UserError: The root or the manifest is missing, or both a manifest and shards are named.
        """
        if not self.root.is_dir():
            raise UserError(f"{self.root}: there is no such folder; --root names the folder of the videos")
        if self.manifest is not None and self.shards is not None:
            raise UserError("--manifest and --shards are two ways to name videos: use one of them")
        if self.manifest is not None and not self.manifest.is_file():
            raise UserError(f"{self.manifest}: the manifest is missing")

    def listed(self) -> Iterator[Input | LeftOut]:
        """Yield files, rows or archives in an order that is the same each time."""
        if self.manifest is not None:
            yield from self._rows(self.manifest)
        elif self.shards is not None:
            for shard in sorted(self.root.glob(self.shards)):
                yield self._safe(Input(shard.relative_to(self.root).as_posix()), str(shard))
        else:
            for path in _videos(self.root):
                yield self._safe(Input(path.relative_to(self.root).as_posix()), str(path))

    def _rows(self, manifest: Path) -> Iterator[Input | LeftOut]:
        read = _csv_rows if manifest.suffix.lower() in (".csv", ".tsv") else _json_rows
        try:
            for number, row in read(manifest):
                where = f"{manifest.name}:{number}"
                try:
                    made = _input(row)
                except ValueError as error:
                    yield LeftOut(where, "malformed row", str(error))
                else:
                    yield self._safe(made, where)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{manifest}: the manifest cannot be read ({error})") from None

    def _safe(self, one: Input, where: str) -> Input | LeftOut:
        try:
            resolve_media(self.root, one.path, self.follow_links)
        except (MediaError, RuntimeError, OSError) as error:
            return LeftOut(where, "unsafe path", str(error))
        return one


def _videos(folder: Path) -> Iterator[Path]:
    """Yield the videos of a folder and the folders in it by name."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read ({error.strerror})") from None
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            yield from _videos(path)
        elif path.suffix.lower().removeprefix(".") in VIDEOS:
            yield path


def _json_rows(manifest: Path) -> Iterator[tuple[int, Any]]:
    with manifest.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield number, valid_texts(json.loads(line))
                except (ValueError, RecursionError) as error:
                    yield number, ValueError(f"not JSON ({str(error).partition(':')[0]})")


def _csv_rows(manifest: Path) -> Iterator[tuple[int, Any]]:
    delimiter = "\t" if manifest.suffix.lower() == ".tsv" else ","
    with manifest.open(encoding="utf-8-sig", newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines, delimiter=delimiter), 2):
            yield number, {name: value for name, value in row.items() if value not in (None, "") and name}


def _input(row: Any) -> Input:
    """Return a row of a manifest.

    Raises:
        ValueError: It is none.
    """
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, found {type(row).__name__}")
    path = row.get("path")
    if not isinstance(path, str) or not path:
        raise ValueError("there is no path")
    times: dict[str, float | None] = {}
    for name in _NUMBERS:
        value = row.get(name)
        try:
            times[name] = None if value is None else float(value)
        except (TypeError, ValueError):
            raise ValueError(f"{name} is no number: {value!r}") from None
    start, end = times["start"] or 0.0, times["end"]
    if not (0 <= start < math.inf) or (end is not None and not start < end < math.inf):
        raise ValueError(f"it cannot last from {start:g} to {end} s")
    licence = row.get("license", row.get("licence", ""))
    return Input(os.path.normpath(path), start, end, str(row.get("source") or ""), str(licence or ""))
