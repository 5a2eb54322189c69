"""Is memory flat while clips are decoded, and how fast is it? ``python -m benchmarks.decoding`` (about five minutes).

Decodes a ten-second clip 2,000 times in one process: the sound of an MP4 file (AAC, stereo, 44.1 kHz), of the same
sound as WAV, and eight frames of the video (H.264, 320 x 240, 25 frames a second). Growth is that of the resident
memory after the first fifty. Writes ``benchmarks/results/decoding.{json,md}`` and prints the table.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import soundfile

from benchmarks.measuring.run_record import RESULTS, run_record
from datamodules.media.audio import load_waveform
from datamodules.media.video import FrameSampling, sample_frames

SECONDS, RATE, FRAMES_A_SECOND = 10, 44_100, 25
WARM_UP = 50
LIMIT_MB = 30


def write_clip(mp4: Path, wav: Path, seconds: int = SECONDS) -> None:
    """Write some seconds of changing pictures and stereo noise, and the sound alone."""
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 0.1, (2, seconds * RATE)).astype(np.float32)
    soundfile.write(wav, sound.T, RATE)
    with av.open(str(mp4), "w") as file:
        video: Any = file.add_stream("libx264", rate=FRAMES_A_SECOND)
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        audio: Any = file.add_stream("aac", rate=RATE, layout="stereo")
        ramp = np.add.outer(np.arange(240), np.arange(320))
        for number in range(seconds * FRAMES_A_SECOND):
            picture = np.repeat((ramp + 3 * number).astype(np.uint8)[..., None], 3, axis=2)
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        file.mux(audio.encode(frame))
        file.mux(audio.encode())


def measure(decode: Callable[[], object], count: int) -> dict[str, float]:
    """Return growth of the resident memory and speed of decoding one clip again and again."""
    process = psutil.Process()
    for _ in range(WARM_UP):
        decode()
    before, started = process.memory_info().rss, time.perf_counter()
    for _ in range(count):
        decode()
    seconds = time.perf_counter() - started
    return {
        "decodings": count,
        "growth_mb": round((process.memory_info().rss - before) / 1e6, 1),
        "resident_mb": round(process.memory_info().rss / 1e6, 1),
        "clips_per_second": round(count / seconds, 1),
    }


def table(results: dict[str, dict[str, float]]) -> str:
    """Return the results as a table."""
    lines = ["| | decodings | growth of memory | resident | clips/s |", "|---|---|---|---|---|"]
    for name, found in results.items():
        lines.append(
            f"| {name} | {found['decodings']:,} | {found['growth_mb']} MB | {found['resident_mb']} MB "
            f"| {found['clips_per_second']} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; the exit status says whether memory was flat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2_000, help="decodings of each kind (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    options = parser.parse_args(arguments)
    command = "python -m benchmarks.decoding"
    record = run_record(command)
    record["versions"] |= {name: version(name) for name in ("av", "decord2", "soundfile", "torchaudio")}
    with tempfile.TemporaryDirectory() as folder:
        mp4, wav = Path(folder) / "clip.mp4", Path(folder) / "clip.wav"
        write_clip(mp4, wav)
        kinds: dict[str, Callable[[], object]] = {
            "sound of an MP4 file": lambda: load_waveform(mp4),
            "sound of a WAV file": lambda: load_waveform(wav),
            "eight frames of an MP4 file": lambda: sample_frames(mp4, FrameSampling()),
        }
        results = {name: measure(decode, options.count) for name, decode in kinds.items()}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "decoding.json").write_text(json.dumps(record | {"results": results}, indent=1) + "\n")
    text = (
        f"# Decoding one clip of ten seconds again and again\n\n`{command}` at {record['commit']}\n\n{table(results)}\n"
    )
    (options.output / "decoding.md").write_text(text)
    print(text)
    return 0 if all(found["growth_mb"] <= LIMIT_MB for found in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
