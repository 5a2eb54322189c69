"""How fast are clips made, and is memory flat? ``python -m benchmarks.corpus`` (some minutes).

Writes a synthetic video of two minutes (H.264, 320 x 240, 25 frames a second, AAC, stereo, 44.1 kHz) and makes clips of
one second of it, beginning at so many moments, many of them near-duplicates of others; then ten times as many; then
clips of ten seconds. Reports clips per second of a core, times real time, the peak of the resident memory, and the time
to start again on a corpus that is complete. Writes ``benchmarks/results/corpus.{json,md}`` and prints the table.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.decoding import write_clip
from benchmarks.measuring.run_record import RESULTS, run_record

LARGEST_GROWTH = 1.2
LEAST_SPEED = 20.0
FILM = 120


def write_manifest(file: Path, clips: int, seconds: float) -> None:
    """Write rows that name parts of one film, few of them twice."""
    with file.open("w", encoding="utf-8") as out:
        for number in range(clips):
            start = round(number * 1.003 % (FILM - seconds), 3)
            out.write(json.dumps({"path": "film.mp4", "start": start, "end": round(start + seconds, 3)}) + "\n")


def measure(root: Path, clips: int, seconds: float) -> dict[str, float]:
    """Make clips in a process of its own and return its speed and its peak."""
    manifest, output = root / f"{clips}-{seconds:g}.jsonl", root / f"out-{clips}-{seconds:g}"
    write_manifest(manifest, clips, seconds)
    command = [sys.executable, "-m", "benchmarks.corpus", "--one", str(root), str(manifest), str(output), str(seconds)]
    first = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    again = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return {
        "clips": clips,
        "seconds_each": seconds,
        "clips_per_second": round(clips / first["cpu_seconds"], 1),
        "times_real_time": round(clips * seconds / first["cpu_seconds"], 1),
        "peak_mb": first["peak_mb"],
        "restart_seconds": again["seconds"],
    }


def one(root: Path, manifest: Path, output: Path, seconds: float) -> dict[str, float]:
    """Make clips in this process."""
    from corpus.clips.inputs import Inputs
    from corpus.clips.settings import ClipSettings
    from corpus.clips.stage import ClipStage

    began, cpu = time.perf_counter(), time.process_time()
    ClipStage(Inputs(root, manifest), ClipSettings(seconds, min(seconds, 1.0)), output).run()
    return {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def table(results: Sequence[dict[str, float]]) -> str:
    """Return the results as a table."""
    lines = [
        "| clips | seconds each | clips/s and core | times real time | peak | restart |",
        "|---|---|---|---|---|---|",
    ]
    for found in results:
        lines.append(
            f"| {found['clips']:,} | {found['seconds_each']:g} | {found['clips_per_second']} "
            f"| {found['times_real_time']} | {found['peak_mb']} MB | {found['restart_seconds']} s |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; the exit status says whether memory was flat and ten seconds were quick enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000, help="clips of the smaller corpus (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    parser.add_argument("--one", nargs=4, metavar=("ROOT", "MANIFEST", "OUTPUT", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        root, manifest, output, seconds = options.one
        print(json.dumps(one(Path(root), Path(manifest), Path(output), float(seconds))))
        return 0
    command = "python -m benchmarks.corpus" + ("" if options.count == 1_000 else f" --count {options.count}")
    record: dict[str, Any] = run_record(command)
    with tempfile.TemporaryDirectory() as folder:
        write_clip(Path(folder) / "film.mp4", Path(folder) / "film.wav", FILM)
        sizes = ((options.count, 1.0), (10 * options.count, 1.0), (max(options.count // 10, 10), 10.0))
        results = [measure(Path(folder), count, seconds) for count, seconds in sizes]
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "corpus.json").write_text(json.dumps(record | {"results": results}, indent=1) + "\n")
    text = f"# Making clips of videos\n\n`{command}` at {record['commit']}\n\n{table(results)}\n"
    (options.output / "corpus.md").write_text(text)
    print(text)
    flat = results[1]["peak_mb"] <= LARGEST_GROWTH * results[0]["peak_mb"]
    return 0 if flat and results[2]["times_real_time"] >= LEAST_SPEED else 1


if __name__ == "__main__":
    sys.exit(main())
