"""Videos with sound that is like no other's, in the shapes in which they come from the Internet."""

import io
import json
import tarfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np


def melody(seed: int, seconds: float, rate: int = 16_000) -> np.ndarray:
    """Notes of changing length, pitch and level with a little noise, mono float32."""
    rng = np.random.default_rng(seed)
    made = np.zeros(round(seconds * rate))
    at = 0
    while at < len(made):
        length = int(rng.uniform(0.08, 0.3) * rate)
        time = np.arange(length) / rate
        note = sum(np.sin(2 * np.pi * rng.uniform(150, 3500) * time) for _ in range(3))
        part = made[at : at + length]
        part += (rng.uniform(0.05, 0.15) * note * np.exp(-6 * time))[: len(part)]
        at += length
    return (made + rng.normal(0, 0.002, len(made))).astype(np.float32)


def write_film(
    path: Path,
    sound: np.ndarray | None,
    rate: int = 16_000,
    codec: str = "aac",
    still: bool = False,
    pictures: bool = True,
    seconds: float | None = None,
    group: int = 12,
    **stream_options: Any,
) -> Path:
    """Write a video of a moving square, or of one that stays, with sound or without; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lasts = seconds if seconds is not None else len(sound) / rate if sound is not None else 1.0
    with av.open(str(path), "w") as file:
        video: Any = file.add_stream("mpeg4", rate=5, options={"g": str(group)}) if pictures else None
        audio: Any = None
        if video is not None:
            video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
            for name, value in stream_options.items():
                setattr(video, name, value)
        if sound is not None:
            audio = file.add_stream(codec, rate=rate, layout="mono")
        if video is not None:
            for number in range(max(1, round(5 * lasts))):
                picture = np.zeros((64, 64, 3), np.uint8)
                place = 8 if still else 4 * number % 48
                picture[20:36, place : place + 16] = 200
                file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            file.mux(video.encode())
        if audio is not None and sound is not None:
            resampler = av.AudioResampler(format=audio.codec_context.format, layout="mono", rate=rate)
            for start in range(0, len(sound), 4096):
                block = np.ascontiguousarray(sound[start : start + 4096])[None]
                frame = av.AudioFrame.from_ndarray(block, "flt", "mono")
                frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
                for part in resampler.resample(frame):
                    file.mux(audio.encode(part))
            for part in resampler.resample(None):
                file.mux(audio.encode(part))
            file.mux(audio.encode())
    return path


def write_shard(path: Path, members: list[tuple[str, bytes | Path | Mapping[str, Any]]]) -> Path:
    """Write a tar archive; what is a mapping is written as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            data = content.read_bytes() if isinstance(content, Path) else content
            raw = data if isinstance(data, bytes) else json.dumps(data).encode()
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return path
