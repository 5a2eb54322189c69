import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from datamodules.media import frame_decoding
from datamodules.media.audio import MediaError
from datamodules.media.video import FrameSampling, load_frames, sample_frames
from tests.support.dataset_files import tone, write_mp4
from tests.support.media_writer import write_sound

HEIGHT, WIDTH = 64, 128
RED, BLUE, BLACK = (255, 0, 0), (0, 0, 255), (0, 0, 0)


def write_video(
    path: Path,
    codec: str = "mpeg4",
    container: str | None = None,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    pixels: str = "yuv420p",
    times: list[int] | None = None,
    **options: str,
) -> Path:
    """Write frames, red at the top left and blue at the bottom right, that get brighter from one to the next.

    ``times`` are tenths of a second; by default there are twenty frames, ten a second.
    """
    height, width = size
    times = list(range(20)) if times is None else times
    with av.open(str(path), "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, pixels, 2_000_000
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = stream.time_base = Fraction(1, 10)
        for number, time in enumerate(times):
            picture = np.zeros((height, width, 3), np.uint8)
            picture[: height // 2, : width // 2] = RED
            picture[height // 2 :, width // 2 :] = BLUE
            picture[: height // 2, width // 2 :, 1] = 10 * number
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def corners(frame: np.ndarray) -> list[tuple[int, ...]]:
    """Return the colours at the top left, top right, bottom right and bottom left, as full or none."""
    places = ((8, 8), (8, -8), (-8, -8), (-8, 8))
    return [tuple(255 * (channel > 128) for channel in frame[place].tolist()) for place in places]


def numbers(frames: np.ndarray) -> list[int]:
    """Return which frames of :func:`write_video` these are."""
    return [round(float(frame[8, -8, 1]) / 10) for frame in frames]


def by_av(path: Path, sampling: FrameSampling) -> frame_decoding.DecodedFrames:
    return frame_decoding._by_av(path, sampling.choose, frame_decoding._timeline(path))


@pytest.mark.parametrize(
    ("codec", "container", "size", "pixels"),
    [
        ("libx264", "mp4", (HEIGHT, WIDTH), "yuv420p"),
        ("libx265", "mp4", (HEIGHT, WIDTH), "yuv420p"),
        ("libx265", "mp4", (HEIGHT, WIDTH), "yuv420p10le"),
        ("libsvtav1", "mp4", (HEIGHT, WIDTH), "yuv420p"),
        ("libsvtav1", "webm", (HEIGHT, WIDTH), "yuv420p10le"),
        ("libvpx-vp9", "webm", (HEIGHT, WIDTH), "yuv420p"),
        ("mpeg4", "avi", (HEIGHT, WIDTH), "yuv420p"),
        ("libx264", "mpegts", (HEIGHT, WIDTH), "yuv420p"),
        ("libx264", "flv", (HEIGHT, WIDTH), "yuv420p"),
        ("libx264", "mp4", (64, 96), "yuv420p"),
        ("libx264", "mp4", (65, 97), "yuv444p"),
        ("ffv1", "matroska", (65, 97), "yuv420p"),
    ],
)
def test_codecs_and_containers_whatever_the_name(
    tmp_path: Path, codec: str, container: str, size: tuple[int, int], pixels: str
) -> None:
    path = write_video(tmp_path / "clip.mp4", codec, container, size, pixels)
    frames = sample_frames(path, FrameSampling(count=4))
    assert frames.pixels.shape == (4, *size, 3)
    assert frames.rate == pytest.approx(2.0)
    for frame in frames.pixels:
        assert corners(frame)[0] == RED and corners(frame)[2] == BLUE
    assert np.abs(np.array(numbers(frames.pixels)) - [2, 7, 12, 17]).max() <= 1  # brightness goes through the codec


def turn(path: Path, degrees: int) -> None:
    """Write into an mp4 that its pictures are to be shown turned clockwise, as a telephone does."""
    one = 1 << 16
    matrix = {
        90: (0, one, 0, -one, 0, 0, HEIGHT * one, 0, 1 << 30),
        180: (-one, 0, 0, 0, -one, 0, WIDTH * one, HEIGHT * one, 1 << 30),
        270: (0, -one, 0, one, 0, 0, 0, WIDTH * one, 1 << 30),
    }[degrees]
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44
    content[place : place + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(90, [BLACK, RED, BLACK, BLUE]), (180, [BLUE, BLACK, RED, BLACK]), (270, [BLACK, BLUE, BLACK, RED])],
)
def test_turned_pictures_stand_upright(tmp_path: Path, degrees: int, expected: list[tuple[int, ...]]) -> None:
    path = write_video(tmp_path / "clip.mp4", times=[0, 1, 2])
    turn(path, degrees)
    for frames in (load_frames(path, (two := FrameSampling(count=2))), by_av(path, two).pixels):
        assert frames.shape == (2, *((HEIGHT, WIDTH) if degrees == 180 else (WIDTH, HEIGHT)), 3)
        assert [corners(frame) for frame in frames] == [expected] * 2


def test_both_decoders_show_the_same_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4")
    sampling = FrameSampling(count=5)
    one, other = frame_decoding._by_decord(path, sampling.choose, frame_decoding._timeline(path)), by_av(path, sampling)
    assert one is not None
    assert one.times == pytest.approx(other.times)
    assert np.abs(one.pixels.astype(int) - other.pixels).mean() < 3


def test_frames_that_last_unequally_long_are_chosen_by_time(tmp_path: Path) -> None:
    # frames 0 to 3 within 0.4 s, frame 4 from 0.4 s to 3.6 s, frame 5 at the end: 4.4 s with the mean length behind it
    path = write_video(tmp_path / "clip.mp4", times=[0, 1, 2, 3, 4, 36])
    frames = sample_frames(path, FrameSampling(count=4))
    assert numbers(frames.pixels) == [4, 4, 4, 5]
    assert frames.rate == pytest.approx(4 / 4.32, rel=0.01)


@pytest.mark.parametrize(("count", "expected"), [(1, [10]), (2, [5, 15]), (4, [2, 7, 12, 17])])
def test_equal_frames_are_chosen_from_the_middle_of_equal_parts(count: int, expected: list[int]) -> None:
    indices, times = FrameSampling(count=count).choose(np.arange(20) / 10, 10.0)
    assert indices == expected
    assert times == pytest.approx([index / 10 for index in expected])
    milliseconds = np.round(np.arange(20) * 1000 / 60) / 1000  # 16 and 17
    assert FrameSampling(count=count).choose(milliseconds, 60.0)[0] == expected


def test_a_header_that_tells_of_too_many_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi")
    content = bytearray(path.read_bytes())
    place = content.index(b"strh") + 8 + 32
    content[place : place + 4] = struct.pack("<I", 4_000_000_000)
    path.write_bytes(content)
    assert load_frames(path, FrameSampling(count=2)).shape == (2, HEIGHT, WIDTH, 3)


def _audio_only(path: Path) -> None:
    write_sound(path, [tone(0.5)], "aac", "mp4")


def _cover(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as file:
        sound: Any = file.add_stream("aac", rate=16_000, layout="mono")
        cover: Any = file.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        file.mux(cover.encode(picture.reformat(format="yuvj420p")))
        frame = av.AudioFrame.from_ndarray(tone(0.5)[None], "fltp", "mono")
        frame.sample_rate = 16_000
        file.mux(sound.encode(frame))
        file.mux(sound.encode())


def _no_whole_frame(path: Path) -> None:
    write_video(path, "libx264", "mp4", bf="0")
    content = path.read_bytes()
    start = content.index(b"mdat") + 4
    size = struct.unpack(">I", content[start - 8 : start - 4])[0] - 8
    path.write_bytes(content[:start] + bytes([255]) * size + content[start + size :])


def _unknown_codec(path: Path) -> None:
    write_video(path, "libx264", "mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))


def _html(path: Path) -> None:
    path.write_text("<html><body>Too many requests</body></html>")


def _cut(path: Path) -> None:
    write_mp4(path, tone(1.0))
    path.write_bytes(path.read_bytes()[:2_000])


def _text(path: Path) -> None:
    path.write_text("no such video " * 20)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (None, "the file is missing"),
        (Path.mkdir, "this is not a file"),
        (Path.touch, "the file is empty"),
        (_html, "this is an HTML page"),
        (_text, "the video cannot be decoded .it is text that begins with 'no such video"),
        (_cut, "the video cannot be decoded"),
        (_audio_only, "there is no video stream that can be decoded"),
        (_cover, "there is no video stream but a cover picture"),
        (_unknown_codec, "there is no video stream that can be decoded .its codec is not known"),
        (_no_whole_frame, "the video cannot be decoded .it is coded as h264"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, make: Any, message: str) -> None:
    path = tmp_path / "clip.mp4"
    if make is not None:
        make(path)
    with pytest.raises(MediaError, match=message) as error:
        sample_frames(path, FrameSampling())
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
