"""Files of datasets for the tests: real mp4 and wav files, annotation rows."""

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

SHARED = Path(os.environ.get("SIGHTSOUND_REAL_DATA") or Path(__file__).parents[3] / "shared" / "data")
"""The real files: the folder that SIGHTSOUND_REAL_DATA names, else one beside the project."""

needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="the real files are not here")


def tone(seconds: float, frequency: float = 440.0, rate: int = 16_000) -> np.ndarray:
    """A sine of amplitude 0.4."""
    return (0.4 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_mp4(
    path: Path,
    samples: np.ndarray | None,
    rate: int = 16_000,
    channels: int = 1,
    seconds: float = 1,
    codec: str = "mpeg4",
    **options: str,
) -> Path:
    """Write a video of grey frames with an AAC track, or none, with options for the container; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        video: Any = container.add_stream(codec, rate=5)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        audio: Any = None
        if samples is not None:
            seconds = len(samples) / rate
            audio = container.add_stream("aac", rate=rate, layout="stereo" if channels == 2 else "mono")
        for index in range(max(1, round(5 * seconds))):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), index % 255, np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None and samples is not None:
            for start in range(0, len(samples), 1024):
                block = np.stack([samples[start : start + 1024]] * channels)
                sound = av.AudioFrame.from_ndarray(block, format="fltp", layout=audio.layout.name)
                sound.rate, sound.pts, sound.time_base = rate, start, Fraction(1, rate)
                container.mux(audio.encode(sound))
            container.mux(audio.encode())
    return path


def avqa_row(number: int, **changes: Any) -> dict[str, Any]:
    """A valid row of AVQA, with changes; a change to ``...`` removes the key."""
    row: dict[str, Any] = {
        "id": number,
        "video_name": f"clip{number}",
        "video_id": 100 + number,
        "question_text": "What can be heard in the video?",
        "multi_choice": ["a dog", "a cat", "a violin", "rain"],
        "answer": number % 4,
        "question_relation": "Sound",
        "question_type": "Which",
        **changes,
    }
    return {key: value for key, value in row.items() if value is not ...}
