"""Frames of a part of a file. The decoder is sent there; what lies before the last key frame is not decoded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from datamodules.media.frame_decoding import (
    DECODING_ERRORS,
    Choose,
    DecodedFrames,
    decoded_frames,
    moving_pictures,
    opened_pictures,
    upright,
)
from datamodules.media.media_files import MediaError, check_media, undecodable

_EDGE = 1e-3
"""Seconds by which a frame's time may be rounded."""


def decode_frame_segment(path: Path, choose: Choose, start: float, end: float) -> DecodedFrames:
    """Decode some frames of a part of a clip's video stream; times count from the part's beginning.

    Args:
        path: Any container with a video stream. A cover picture is none.
        choose: Says which.
        start: Where the part begins, in seconds.
        end: Where it ends.

    Raises:
        MediaError: The file is missing or no media file, has no video stream, cannot be decoded, or has no frame there.
    """
    check_media(path)
    try:
        with opened_pictures(path) as container:
            stream = moving_pictures(container, path)
            rate = float(stream.average_rate or stream.guessed_rate or 1)
            window = _Window(container, stream, start, end)
            begins = np.array(sorted(window.packet_times()))
            if len(begins) == 0:
                raise MediaError(f"{path}: the video has no frames between {start:g} and {end:g} s")
            indices, times = choose(begins, rate)
            wanted = {round(begins[index] / _EDGE): index for index in indices}
            shown: dict[int, np.ndarray] = {}
            last: Any = None
            for moment, frame in window.frames():
                last = frame
                index = wanted.get(round(moment / _EDGE))
                if index is not None:
                    shown[index] = upright(frame)
                if len(shown) == len(wanted):
                    break
            if last is None:
                raise MediaError(f"{path}: the video cannot be decoded between {start:g} and {end:g} s")
            end_frame = upright(last)  # frames that are damaged do not come out
            return DecodedFrames(np.stack([shown.get(index, end_frame) for index in indices]), times)
    except MediaError:
        raise
    except (av.FFmpegError, *DECODING_ERRORS) as error:
        raise undecodable(path, "video", error) from None


def segment_frames(path: Path, start: float, end: float) -> Iterator[tuple[float, Any]]:
    """Yield the frames of a part of a clip in order, each with its time in the part, as PyAV has them.

    Args:
        path: Any container with a video stream.
        start: Where the part begins, in seconds.
        end: Where it ends.

    Raises:
        MediaError: As for :func:`decode_frame_segment`.
    """
    check_media(path)
    try:
        with opened_pictures(path) as container:
            yield from _Window(container, moving_pictures(container, path), start, end).frames()
    except MediaError:
        raise
    except (av.FFmpegError, *DECODING_ERRORS) as error:
        raise undecodable(path, "video", error) from None


class _Window:
    """A part of a video stream."""

    def __init__(self, container: Any, stream: Any, start: float, end: float) -> None:
        self.container, self.stream, self.start, self.end = container, stream, start, end
        self.origin = max(0.0, (container.start_time or 0) / av.time_base)
        self.reordered = 1.0  # seconds by which packets may come later than frames that are shown after them

    def _seek(self) -> None:
        moment = round((self.start + self.origin) / self.stream.time_base)
        self.container.seek(moment, stream=self.stream, backward=True)

    def _moment(self, pts: int) -> float:
        return float(pts * self.stream.time_base) - self.origin - self.start

    def _inside(self, moment: float) -> bool:
        return -_EDGE <= moment < self.end - self.start - _EDGE

    def packet_times(self) -> list[float]:
        """Return when the frames are shown, without decoding them."""
        self._seek()
        times = []
        for packet in self.container.demux(self.stream):
            if packet.pts is None:
                continue
            moment = self._moment(packet.pts)
            if self._inside(moment):
                times.append(moment)
            elif moment > self.end - self.start + self.reordered:
                break
        return times

    def frames(self) -> Iterator[tuple[float, Any]]:
        """Yield the frames with their times."""
        self._seek()
        for frame in decoded_frames(self.container, self.stream):
            if frame.pts is None:
                continue
            moment = self._moment(frame.pts)
            if moment >= self.end - self.start - _EDGE:
                return
            if self._inside(moment):
                yield moment, frame
