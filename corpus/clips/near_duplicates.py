"""Clips of a corpus that sound the same, found in memory that does not grow with the corpus.

Each clip has a few keys (:mod:`.stored_print`). They are sorted part by part on disk, as joins outside of memory are;
two clips with a key in common are candidates, and the audit's own rule decides on their whole fingerprints. Of clips
that sound alike the first one stays.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from corpus.clips.records import Examined
from corpus.clips.stored_print import KEYS, from_text, keys_of
from evaluation.fingerprint import Fingerprint, FingerprintIndex
from runtime.whole_folder import remove_path

_ENTRY = np.dtype([("key", "<u8"), ("clip", "<u4")])
_CANDIDATE = np.dtype([("clip", "<u4"), ("earlier", "<u4")])
_POSITION = np.dtype([("log", "<u4"), ("byte", "<u8"), ("place", "<u2")])

ENTRIES_AT_ONCE = 1_000_000
"""Keys of a part, which are sorted in memory: 12 MB."""

CLIPS_AT_ONCE = 8192
"""Clips whose candidates are in memory at once."""

_BEFORE = 4
"""Each clip is compared with so many clips before it among those that share a key; through these with all."""

_VERIFIED = 8
"""Candidates of a clip whose whole fingerprints are compared, those with most keys in common first."""


@dataclass(frozen=True)
class Duplicates:
    """Which clips sound like an earlier one.

    Attributes:
        earlier: For each clip the number of the earlier clip plus one, or 0; an array on disk.
    """

    earlier: np.ndarray
    prints: "_Prints"

    def of(self, clip: int) -> str | None:
        """Return the id of the earlier clip that a clip sounds like, or None."""
        found = int(self.earlier[clip])
        return self.prints.id(found - 1) if found else None


def find_duplicates(
    logs: Sequence[Path], folder: Path, entries: int = ENTRIES_AT_ONCE, clips_at_once: int = CLIPS_AT_ONCE
) -> Duplicates:
    """Compare all clips of some logs, numbered in the logs' order.

    Args:
        logs: Files of ``Examined``.
        folder: For what is on disk meanwhile; what is there is removed.
        entries: How many keys are sorted at once.
        clips_at_once: Clips whose candidates are in memory at once.
    """
    remove_path(folder)
    folder.mkdir(parents=True)
    clips = _write_positions(logs, folder / "positions")
    earlier = np.zeros(0, "<u4")
    prints = _Prints(logs, np.zeros(0, _POSITION))
    if clips:
        earlier = np.memmap(folder / "earlier", "<u4", "w+", shape=(clips,))
        prints = _Prints(logs, np.memmap(folder / "positions", _POSITION, "r"))
        parts = max(1, -(-clips * KEYS // entries))
        _write_keys(prints, folder, parts)
        for part in range(parts):
            _write_candidates(folder / f"keys-{part:05d}", folder, clips_at_once)
        for block in sorted(folder.glob("candidates-*")):
            _verify(np.fromfile(block, _CANDIDATE), prints, earlier)
    return Duplicates(earlier, prints)


class _Prints:
    """Fingerprints by the number of their clip, read from the logs."""

    def __init__(self, logs: Sequence[Path], positions: np.ndarray) -> None:
        self.logs, self.positions = logs, positions

    def __getitem__(self, clip: int) -> Fingerprint:
        examined, place = self._read(clip)
        return from_text(examined.prints[place])

    def id(self, clip: int) -> str:
        """Return a clip's id."""
        examined, place = self._read(clip)
        return str(examined.clips[place]["clip"])

    def _read(self, clip: int) -> tuple[Examined, int]:
        position = self.positions[clip]
        with self.logs[int(position["log"])].open("rb") as file:
            file.seek(int(position["byte"]))
            line = file.readline().decode("utf-8")
        return Examined.from_json(line), int(position["place"])

    def all(self) -> Iterator[Fingerprint]:
        """Yield all in order, reading each log once."""
        for log in self.logs:
            with log.open(encoding="utf-8") as lines:
                for line in lines:
                    yield from map(from_text, Examined.from_json(line).prints)


def _write_positions(logs: Sequence[Path], file: Path) -> int:
    count = 0
    with file.open("wb") as out:
        for number, log in enumerate(logs):
            byte = 0
            with log.open("rb") as lines:
                for line in lines:
                    found = len(Examined.from_json(line.decode("utf-8")).prints)
                    out.write(np.array([(number, byte, place) for place in range(found)], _POSITION).tobytes())
                    count += found
                    byte += len(line)
    return count


def _write_keys(prints: _Prints, folder: Path, parts: int) -> None:
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(_appended(folder / f"keys-{part:05d}")) for part in range(parts)]
        for clip, printed in enumerate(prints.all()):
            keys = keys_of(printed)
            entries = np.empty(len(keys), _ENTRY)
            entries["key"], entries["clip"] = keys, clip
            # the smallest keys are taken of a clip, so that their last bits and not their first spread them evenly
            where = ((_spread(keys) >> np.uint64(32)) % np.uint64(parts)).astype(int)
            for part in np.unique(where):
                files[part](entries[where == part].tobytes())


@contextlib.contextmanager
def _appended(file: Path) -> Iterator[Callable[[bytes], None]]:
    """Yield what appends to a file, opening it only for a few hundred kilobytes at once: there may be many files."""
    waiting: list[bytes] = []

    def flush() -> None:
        with file.open("ab") as out:
            out.write(b"".join(waiting))
        waiting.clear()

    def append(content: bytes) -> None:
        waiting.append(content)
        if len(waiting) >= 512:
            flush()

    yield append
    flush()


def _spread(keys: np.ndarray) -> np.ndarray:
    return np.asarray(keys * np.uint64(0x9E3779B97F4A7C15))


def _write_candidates(keys: Path, folder: Path, clips_at_once: int) -> None:
    entries = np.fromfile(keys, _ENTRY)
    keys.unlink()
    entries = entries[np.lexsort((entries["clip"], entries["key"]))]
    found = []
    for apart in range(1, _BEFORE + 1):
        same = entries["key"][apart:] == entries["key"][:-apart]
        pairs = np.empty(int(same.sum()), _CANDIDATE)
        pairs["clip"], pairs["earlier"] = entries["clip"][apart:][same], entries["clip"][:-apart][same]
        found.append(pairs[pairs["clip"] != pairs["earlier"]])
    candidates = np.concatenate(found)
    blocks = candidates["clip"] // clips_at_once
    for block in np.unique(blocks):
        with (folder / f"candidates-{block:08d}").open("ab") as file:
            file.write(candidates[blocks == block].tobytes())


def _verify(candidates: np.ndarray, prints: _Prints, earlier: np.ndarray) -> None:
    candidates = candidates[np.lexsort((candidates["earlier"], candidates["clip"]))]
    bounds = np.flatnonzero(np.diff(candidates["clip"], prepend=-1).astype(bool)).tolist()
    for start, stop in zip(bounds, [*bounds[1:], len(candidates)], strict=True):
        clip = int(candidates["clip"][start])
        votes = Counter(candidates["earlier"][start:stop].tolist())
        printed = prints[clip]
        for other, _ in sorted(votes.items(), key=lambda vote: (-vote[1], vote[0]))[:_VERIFIED]:
            if same_sound(prints[other], printed):
                earlier[clip] = other + 1
                break


def same_sound(one: Fingerprint, other: Fingerprint) -> bool:
    """Return whether two clips sound the same, by the rule of the audit."""
    return next(FingerprintIndex([("", one)]).search("", other), None) is not None
