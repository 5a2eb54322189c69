"""Clips whose names are written differently in annotations and on disk.

Capitals, the form of Unicode (composed on Linux, often decomposed on a Mac), backslashes of Windows and invisible
characters make no other clip of a name. Each folder is listed once, and only when a clip is looked for in vain.
"""

import difflib
import functools
import os
import re
import unicodedata
from bisect import bisect_left
from pathlib import PurePosixPath

from datamodules.media.audio import ClipFolder, MediaError

_INVISIBLE = dict.fromkeys((0x00AD, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0xFEFF))
_NO_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_PLAYLISTS = frozenset({".m3u8", ".m3u", ".mpd", ".sdp", ".pls", ".ffconcat"})
_NEIGHBOURS = 4
"""Names before and behind, in alphabetical order, that are compared with one that is missing."""


def can_be_name(text: str) -> bool:
    """Return whether a text can name a clip: it has no control characters, and is text as a whole."""
    return not _NO_NAME.search(text)


def is_playlist(text: str) -> bool:
    """Return whether a name is that of a playlist, whose decoder would open the files and addresses that it lists."""
    return PurePosixPath(same_name(text)).suffix in _PLAYLISTS


def same_name(name: str) -> str:
    """Return what all spellings of a name have in common."""
    composed = unicodedata.normalize("NFC", name.translate(_INVISIBLE)).strip().casefold()
    return unicodedata.normalize("NFC", composed)


class NearbyNames:
    """The names below a dataset's folder, found whatever their spelling."""

    def __init__(self, clips: ClipFolder) -> None:
        """Begin without a listing.

        Args:
            clips: The folder; what leads out of it is never listed.
        """
        self.clips = clips
        self._listing = functools.cache(self._list)
        self._in_order = functools.cache(self._sort)

    def find(self, media: str) -> list[str]:
        """Return the files that may be meant by a name: the one that only has other slashes, or all other spellings.

        Args:
            media: The clip as the annotations name it, relative to the dataset's folder.
        """
        parts = _parts(media)
        places = [""]
        for part in parts:
            places = [
                os.path.join(place, name) for place in places for name in self._listing(place).get(same_name(part), ())
            ]
        files = [place for place in places if self._is_file(place)]
        same = "/".join(parts)
        return [same] if same in files else files

    def nearest(self, media: str) -> str | None:
        """Return the name on disk that is most like one that is missing, or None where none is like it."""
        place = ""
        for part in _parts(media):
            listing = self._listing(place)
            if found := listing.get(same_name(part)):
                place = os.path.join(place, found[0])
                continue
            near = _most_like(same_name(part), self._in_order(place, False), self._in_order(place, True))
            return None if near is None else os.path.join(place, listing[near][0])
        return None

    def _is_file(self, place: str) -> bool:
        try:
            return self.clips.path(place).is_file()
        except (MediaError, OSError):
            return False

    def _list(self, place: str) -> dict[str, list[str]]:
        try:
            names = sorted(os.listdir(self.clips.path(place or ".")))
        except (MediaError, OSError, RuntimeError):  # no folder, not ours, or a circle of links
            return {}
        listing: dict[str, list[str]] = {}
        for name in names:
            if can_be_name(name):
                listing.setdefault(same_name(name), []).append(name)
        return listing

    def _sort(self, place: str, backwards: bool) -> list[str]:
        return sorted(name[::-1] if backwards else name for name in self._listing(place))


def _parts(media: str) -> tuple[str, ...]:
    return PurePosixPath(os.path.normpath(media.replace("\\", "/"))).parts


def _most_like(name: str, names: list[str], backwards: list[str]) -> str | None:
    """Return the most similar of the names that begin or end alike."""
    near = [*_around(name, names), *(other[::-1] for other in _around(name[::-1], backwards))]
    stem = name.rpartition(".")[0] or name
    for other in near:
        if other.rpartition(".")[0] == stem:
            return other
    return next(iter(difflib.get_close_matches(name, near, n=1, cutoff=0.7)), None)


def _around(name: str, names: list[str]) -> list[str]:
    place = bisect_left(names, name)
    return names[max(0, place - _NEIGHBOURS) : place + _NEIGHBOURS]
