"""What the tests of the stages share: videos, arguments, reading what was written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from records.records import read_jsonl

CATEGORIES = ("Which", "Happening")
OPTIONS = ["a dog", "a cat", "a violin", "rain"]


def write_video(path: Path, colour: int, sound: bool = True) -> None:
    """Write a second of video whose colour changes with time; with a tone unless it is to have no audio track."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        video: Any = container.add_stream("mpeg4", rate=8)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio: Any = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for number in range(8):
            picture = np.full((48, 64, 3), (colour, 30 * number, 255 - colour), np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        if sound:
            tone = 0.4 * np.sin(2 * np.pi * (200 + colour) * np.arange(16_000) / 16_000)
            frame = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 0
            container.mux(audio.encode(frame))
            container.mux(audio.encode())


Stage = Callable[..., Any]


def stage_args(configs: str | tuple[str, ...], root: Path, url: str, out: Path, run: str = "predict") -> list[str]:
    """Arguments that run shipped configurations, one over the other, on small data and without worker processes."""
    options = {
        "trainer.default_root_dir": out,
        "trainer.enable_progress_bar": "false",
        "model.init_args.endpoint.base_url": url,
        "model.init_args.endpoint.model": "stub",
        "model.init_args.endpoint.timeout": 0.4,
        "model.init_args.endpoint.retry.first_delay": 0.01,
        "data.init_args.root": root,
        "data.init_args.num_workers": 0,
        "data.init_args.eval_batch_size": 2,
    }
    named = [f"--config={config}" for config in ([configs] if isinstance(configs, str) else configs)]
    return [run, *named, *(f"--{name}={value}" for name, value in options.items())]


def records(folder: Path, kind: type[Any], files: str = "*.jsonl") -> list[Any]:
    """All records of a kind in a folder."""
    return [one for file in sorted(folder.glob(files)) for one in read_jsonl(file, kind)]
