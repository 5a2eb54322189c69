"""One file, or a part of one, as clips: which of its seconds can be heard and seen, and what is left out."""

import dataclasses
import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av

from corpus.clips.known_clips import KnownClips
from corpus.clips.quality import grey_grid, heard, moves
from corpus.clips.records import Examined, Input, LeftOut
from corpus.clips.settings import ClipSettings
from corpus.clips.stored_print import to_text
from datamodules.media.audio import SAMPLE_RATE, load_segment
from datamodules.media.frame_decoding import moving_pictures, opened_pictures
from datamodules.media.frame_segment import segment_frames
from datamodules.media.media_files import MediaError, PastTheEndError, check_media, resolve_media, undecodable
from datamodules.media.segments import Segment
from datamodules.media.sound_decoding import DECODING_ERRORS, default_track
from evaluation.fingerprint import fingerprint
from records.clips import Clip

_ROUNDING = 0.1
"""Seconds by which the length of a clip may miss its round number: frames of codecs do not fit into ten seconds."""

_SAFE = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Examiner:
    """Examines files one after the other.

    Attributes:
        root: The folder that paths are relative to.
        settings: What a clip has to be.
        known: Clips of benchmarks, which never become clips of a corpus.
        follow_links: Accept symbolic links that lead out of ``root``.
    """

    root: Path
    settings: ClipSettings
    known: KnownClips
    follow_links: bool = False

    def examine(self, one: Input | LeftOut) -> Examined:
        """Return what comes of an input; nothing is raised for what is wrong with it."""
        if isinstance(one, LeftOut):
            return Examined(one.name, left_out=(_fields(one),))
        made: list[tuple[Clip, str]] = []
        left: list[LeftOut] = []
        seconds = 0.0
        try:
            file = resolve_media(self.root, one.path, self.follow_links)
            whole = Segment(file, 0.0, math.inf, one.member, one.offset, one.size)
            with whole.opened() as path:
                seconds = length(path)
                for found in self._clips(one, path, seconds):
                    if isinstance(found, LeftOut):
                        left.append(found)
                    else:
                        made.append(found)
        except _Unusable as error:
            left.append(LeftOut(one.name, error.reason, str(error)))
        except MediaError as error:
            left.append(LeftOut(one.name, "unreadable", str(error)))
        return Examined(
            one.name,
            tuple(dataclasses.asdict(clip) for clip, _ in made),
            tuple(printed for _, printed in made),
            tuple(map(_fields, left)),
            round(seconds, 3),
        )

    def _clips(self, one: Input, path: Path, seconds: float) -> Iterator[tuple[Clip, str] | LeftOut]:
        end = seconds if one.end is None else min(one.end, seconds)
        if one.end is not None and one.end > seconds + self.settings.least_seconds:
            yield LeftOut(one.name, "wrong duration", f"the row goes to {one.end:g} s, the file to {seconds:.1f} s")
        parts = spans(one.start, end, self.settings)
        if not parts:
            yield LeftOut(one.name, "too short", f"{max(end - one.start, 0):.1f} s are fewer than a clip has")
            return
        chosen = spread(len(parts), self.settings.most_of_a_file)
        if len(chosen) < len(parts):
            over = len(parts) - len(chosen)
            detail = f"it has {len(parts)} clips, of which {len(chosen)} are used"
            yield LeftOut(one.name, "beyond the limit of a file", detail, count=over)
        for place in chosen:
            start, stop = parts[place]
            found = self._clip(one, path, start, stop)
            yield found
            if isinstance(found, LeftOut) and found.reason == "wrong duration":
                return  # no sound is left behind it

    def _clip(self, one: Input, path: Path, start: float, end: float) -> tuple[Clip, str] | LeftOut:
        def out(reason: str, detail: str) -> LeftOut:
            return LeftOut(one.name, reason, detail, start, end)

        try:
            waveform = load_segment(Segment(path, start, end))
        except PastTheEndError:
            return out("wrong duration", f"the sound ends before {start:g} s, the file says that it is longer")
        except MediaError as error:
            return out("unreadable", str(error).replace(str(path), one.name))
        lasts = len(waveform) / SAMPLE_RATE
        if lasts < end - start - _ROUNDING:
            if lasts < self.settings.least_seconds:
                return out("wrong duration", f"the sound ends after {start + lasts:.1f} s, the file says {end:.1f} s")
            end = round(start + lasts, 3)
        if problem := heard(waveform, self.settings):
            return out(*problem)
        try:
            pictures = (grey_grid(frame) for _, frame in segment_frames(path, start, end))
            if not moves(pictures, self.settings.motion):
                return out("no motion", "the picture stays as it is")
        except MediaError as error:
            return out("unreadable", str(error).replace(str(path), one.name))
        printed = fingerprint(waveform)
        if not printed.distinctive:
            return out("indistinct", "there is too little in its sound to tell it from others")
        if match := self.known.find(Path(one.member or one.path), start, printed):
            return out("benchmark", match)
        return clip_of(one, start, end), to_text(printed)


class _Unusable(Exception):
    """A file of which nothing can be used."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def length(path: Path) -> float:
    """Return how long a file with sound and pictures is, in seconds, as its container tells.

    Raises:
        MediaError: It is no media file.
        _Unusable: It has no sound or no pictures.
    """
    check_media(path)
    try:
        with opened_pictures(path) as container:
            try:
                track = default_track(container, path)
            except MediaError as error:
                raise _Unusable("no audio track", str(error)) from None
            try:
                moving_pictures(container, path)
            except MediaError as error:
                raise _Unusable("no picture", str(error)) from None
            if container.duration is not None:
                return float(container.duration / av.time_base)
            if track.duration is not None:
                return float(track.duration * track.time_base)
            ends = [packet.pts + (packet.duration or 0) for packet in container.demux(track) if packet.pts is not None]
            return float(max(ends, default=0) * track.time_base)
    except MediaError:
        raise
    except (av.FFmpegError, *DECODING_ERRORS) as error:
        raise undecodable(path, "video", error) from None


def spans(start: float, end: float, settings: ClipSettings) -> list[tuple[float, float]]:
    """Return the clips of a stretch, each with its beginning and end, one behind the other.

    Args:
        start: Where the stretch begins, in seconds.
        end: Where it ends.
        settings: How long a clip is.
    """
    lasts = end - start
    whole = max(math.floor((lasts + _ROUNDING) / settings.seconds), 0)
    begins = [start + number * settings.seconds for number in range(whole)]
    parts = [(round(at, 3), round(min(at + settings.seconds, end), 3)) for at in begins]
    if lasts - whole * settings.seconds >= settings.least_seconds:
        parts.append((round(start + whole * settings.seconds, 3), round(end, 3)))
    return parts


def spread(count: int, most: int) -> list[int]:
    """Return at most so many of ``count`` places, evenly spread."""
    if count <= most:
        return list(range(count))
    return [(2 * number + 1) * count // (2 * most) for number in range(most)]


def clip_of(one: Input, start: float, end: float) -> Clip:
    """Return a part of an input as a clip; its id says file and beginning, and is the same in each run."""
    stem = _SAFE.sub("-", Path(one.member or one.path).stem).strip("-")[:60] or "clip"
    digest = hashlib.sha256(one.name.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    name = f"{stem}-{digest}_{round(start * 1000):09d}_{round(end * 1000):09d}"
    return Clip(name, one.path, start, end, one.source, one.license, one.member, one.offset, one.size)


def _fields(one: LeftOut) -> dict[str, object]:
    return dataclasses.asdict(one)
