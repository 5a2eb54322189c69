"""Frames out of files, whatever they are called. The audio track is never decoded.

decord reads the frames that are asked for. What it cannot read (MPEG-TS; pictures of some widths below 100, which come
out with a fourth channel), PyAV decodes from the beginning.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from datamodules.media.media_files import MediaError, check_media, is_of_the_machine, undecodable

Choose = Callable[[np.ndarray, float], tuple[list[int], list[float]]]
"""Chooses frames and says for which moments they stand, given when each frame of the clip begins, and how many frames a
second has on average; all in seconds."""

DECODING_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, OSError, ArithmeticError, MemoryError)
"""What decoders raise for files that are broken in some way; decord's and PyAV's own errors are among them or added."""


@dataclass(frozen=True)
class DecodedFrames:
    """The frames that were chosen.

    Attributes:
        pixels: The frames ``[N, height, width, 3]``, uint8, RGB.
        times: The moments for which they stand, in seconds.
    """

    pixels: np.ndarray
    times: list[float]


def decode_frames(path: Path, choose: Choose) -> DecodedFrames:
    """Decode some frames of a clip's video stream.

    Args:
        path: Any container with a video stream. A cover picture is none.
        choose: Says which.

    Raises:
        MediaError: The file is missing or no media file, has no video stream, or cannot be decoded.
    """
    check_media(path)
    try:
        timeline = _timeline(path)
        return _by_decord(path, choose, timeline) or _by_av(path, choose, timeline)
    except MediaError:
        raise
    except (av.FFmpegError, *DECODING_ERRORS) as error:
        raise undecodable(path, "video", error) from None


@dataclass(frozen=True)
class _Timeline:
    """What a container tells of its frames.

    Attributes:
        begins: When each frame begins, in seconds after the first.
        rate: Frames a second on average.
        plausible: No stream tells of more frames than the file has bytes.
    """

    begins: np.ndarray
    rate: float
    plausible: bool


def _by_decord(path: Path, choose: Choose, timeline: _Timeline) -> DecodedFrames | None:
    """Return what decord reads, or None where it cannot."""
    import decord

    if not timeline.plausible:  # decord makes room for as many frames as it is told of, and ends the process
        return None
    try:
        video = decord.VideoReader(str(path), num_threads=1)
        begins = video.get_frame_timestamp(range(len(video)))[:, 0]
        indices, times = choose(begins, float(video.get_avg_fps()) or 1.0)
        pixels = video.get_batch(indices).asnumpy()
    except (decord.DECORDError, *DECODING_ERRORS):
        return None
    return DecodedFrames(pixels, times) if pixels.shape[-1] == 3 else None


def _by_av(path: Path, choose: Choose, timeline: _Timeline) -> DecodedFrames:
    indices, times = choose(timeline.begins, timeline.rate)
    shown: dict[int, np.ndarray] = {}
    with opened_pictures(path) as container:
        stream = moving_pictures(container, path)
        last: Any = None
        for number, frame in enumerate(decoded_frames(container, stream)):
            last = frame
            if number in indices:
                shown[number] = upright(frame)
            if number == max(indices):
                break
    if last is None:
        raise MediaError(
            f"{path}: the video cannot be decoded (it is coded as {stream.codec_context.name}, and no frame is whole)"
        )
    # frames that are damaged do not come out: the last one that does stands for those at the end
    end = upright(last)
    return DecodedFrames(np.stack([shown.get(index, end) for index in indices]), times)


def _timeline(path: Path) -> _Timeline:
    with opened_pictures(path) as container:
        stream = moving_pictures(container, path)
        rate = float(stream.average_rate or stream.guessed_rate or 1)
        plausible = all(each.frames <= path.stat().st_size for each in container.streams)
        times = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
        begins = np.sort(np.array(times, dtype=np.float64)) * float(stream.time_base)
    if len(begins) == 0:
        raise MediaError(f"{path}: the video has no frames")
    return _Timeline(begins - begins[0], rate, plausible)


def opened_pictures(path: Path) -> Any:
    """Return a file's container, opened by FFmpeg."""
    return av.open(f"file:{path}", metadata_errors="replace", options={"protocol_whitelist": "file"})


def moving_pictures(container: Any, path: Path) -> Any:
    """Return the video stream that is seen.

    Raises:
        MediaError: There is none that can be decoded.
    """
    streams = container.streams.video
    moving = [stream for stream in streams if not stream.disposition & av.stream.Disposition.attached_pic]
    if not moving:
        cover = " but a cover picture" if streams else " that can be decoded"
        raise MediaError(f"{path}: there is no video stream{cover}")
    coded = [stream for stream in moving if stream.codec_context is not None]
    if not coded:
        raise MediaError(f"{path}: there is no video stream that can be decoded (its codec is not known)")
    return coded[0]


def decoded_frames(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the frames of a video stream from where it stands; those that are damaged do not come out."""
    stream.codec_context.thread_count = 1
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except (av.FFmpegError, EOFError) as error:
            if is_of_the_machine(error):
                raise


def upright(frame: Any) -> np.ndarray:
    """Return a frame as it is to be seen, ``[height, width, 3]`` uint8."""
    pixels: np.ndarray = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
