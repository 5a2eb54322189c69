"""Sound of a part of a file. The decoder is sent there; what lies before is not decoded.

Times are those of the container, the same as for its pictures. Sound that begins late, and gaps, are silence.
"""

import math
from pathlib import Path
from typing import Any

import av
import numpy as np

from datamodules.media.media_files import MediaError, check_media, is_of_the_machine, undecodable
from datamodules.media.resampling import SAMPLE_RATE, resample
from datamodules.media.sound_decoding import DECODING_ERRORS, as_float32, default_track, mono, opened_sound, samples_of

_AHEAD = 1.0
"""Seconds before the part that are decoded as well: a decoder that begins in the middle needs some packets before its
samples are right, and resampling needs some samples."""

_BEHIND = 0.1
"""Seconds after the part, which resampling needs."""

_JITTER = 0.002
"""Seconds by which timestamps may miss the sample that is due: containers that count in milliseconds round them."""

_LACKING = 0.05
"""Seconds that may be missing at the end of a part."""


def decode_sound_segment(path: Path, start: float, end: float) -> np.ndarray:
    """Decode a part of a file's sound to mono float32 at 16 kHz.

    The samples are those that the whole file has there; noise that a decoder makes itself (AAC) may be another one.

    Args:
        path: Any audio file or container with an audio track.
        start: Where the part begins, in seconds.
        end: Where it ends.

    Returns:
        ``[N]``, fewer than the part has where the sound ends before.

    Raises:
        MediaError: The file is missing or no media file, has no audio track, is broken, or has no sound there.
    """
    check_media(path)
    # a whole second, which is a whole number of samples at every rate
    begins = max(0, math.floor(start - _AHEAD))
    try:
        with opened_sound(path) as container:
            stretch = _Stretch(container, path, begins, end + _BEHIND)
            heard = stretch.samples()
            samples = resample(heard, stretch.rate) if len(heard) else heard
    except MediaError:
        raise
    except DECODING_ERRORS as error:
        raise undecodable(path, "audio", error) from None
    if not np.isfinite(samples).all():
        raise MediaError(f"{path}: the audio contains NaN or infinite samples")
    last = max(start, stretch.ends) if stretch.ends < end - _LACKING else end
    first, stop = (round((moment - begins) * SAMPLE_RATE) for moment in (start, last))
    return np.ascontiguousarray(samples[first:stop], dtype=np.float32)


class _Stretch:
    """Samples of a track from one moment to another.

    Attributes:
        rate: Samples a second.
        ends: The moment at which the sound ended, in seconds; later than asked for where it goes on.
    """

    def __init__(self, container: Any, path: Path, begins: int, until: float) -> None:
        self.container, self.path, self.begins, self.until = container, path, begins, until
        self.stream = default_track(container, path)
        self.rate = 0
        self.origin = max(0.0, (container.start_time or 0) / av.time_base)
        self.ends = 0.0

    def samples(self) -> np.ndarray:
        """Return them, mono float32 from ``begins`` on."""
        if self.begins > 0:
            moment = round((self.begins + self.origin) / self.stream.time_base)
            self.container.seek(moment, stream=self.stream, backward=True)
        made = np.zeros(0, dtype=np.float32)
        due: int | None = None
        sound = damaged = 0
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
                frames = packet.decode()
            except StopIteration:
                break
            except (av.FFmpegError, EOFError) as error:
                if is_of_the_machine(error):
                    raise
                damaged += 1
                if damaged > 100 + sound:
                    break
                continue
            for frame in frames:
                if not self.rate:  # decoders may find another one than the container tells
                    self.rate = frame.sample_rate
                    made = np.zeros(math.ceil((self.until - self.begins) * self.rate), dtype=np.float32)
                if frame.sample_rate != self.rate:
                    raise MediaError(f"{self.path}: the sound's rate changes on the way")
                block = mono(as_float32([samples_of(frame)]))
                told = None if frame.pts is None else float(frame.pts * frame.time_base) - self.origin - self.begins
                place = due if told is None else round(told * self.rate)
                if due is not None and place is not None and abs(place - due) <= _JITTER * self.rate:
                    place = due
                if place is None:
                    raise MediaError(f"{self.path}: the sound has no timestamps, so that no part of it can be found")
                due = place + len(block)
                _put(made, block, place)
                sound += 1
            if due is not None and due >= len(made):
                break
        if damaged > sound:
            raise MediaError(f"{self.path}: the audio cannot be decoded ({damaged} of its packets are damaged)")
        self.ends = self.begins + (due or 0) / max(self.rate, 1)
        return made


def _put(made: np.ndarray, block: np.ndarray, place: int) -> None:
    """Copy what of a block lies within."""
    first, last = max(place, 0), min(place + len(block), len(made))
    if first < last:
        made[first:last] = block[first - place : last - place]
