"""The learner on one GPU: ``python -m benchmarks.gpu --output DIR`` (``benchmarks/gpu.md`` says what it measures)."""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.part import PARTS, SIZES
from benchmarks.gpu.report import markdown
from benchmarks.measuring.run_record import run_record
from runtime.whole_file import remove_partial, write_whole

LEAST = 8.0
"""Seconds that must be left for a part to begin."""


class Ahead:
    """A part's process, started before its turn: it imports and then waits for the word."""

    def __init__(self, name: str, folder: Path) -> None:
        """Start it; it does not touch the GPU yet."""
        self.name = name
        self.result = folder / f"{name}.part.json"
        self.result.unlink(missing_ok=True)
        command = [sys.executable, "-m", "benchmarks.gpu.part", name, str(self.result)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, process_group=0)

    def measure(self, settings: dict[str, Any], limit: float) -> dict[str, Any]:
        """Give the word, wait, and return the figures; what a part found before it was ended counts.

        Args:
            settings: Fields of :class:`benchmarks.gpu.work.Work`, and ``threads``.
            limit: Seconds after which it is ended.
        """
        assert self.process.stdin is not None
        begun = time.monotonic()
        ending = ""
        try:
            self.process.stdin.write(json.dumps(settings | {"budget": limit - 2}) + "\n")
            self.process.stdin.flush()
            code = self.process.wait(limit)
            ending = f"the process ended with {code}" if code else ""
        except subprocess.TimeoutExpired:
            ending = f"ended after its limit of {limit:.0f} s"
        except OSError as error:
            ending = f"the process had gone: {error}"
        self.end()
        figures: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            figures = json.loads(self.result.read_text(encoding="utf-8"))
        self.result.unlink(missing_ok=True)
        if ending:
            figures.setdefault("error", ending)
        return figures | {"wall_s": round(time.monotonic() - begun, 1)}

    def end(self) -> None:
        """End the process and all that it started."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        remove_partial(self.result.parent, f"{self.result.name}*")


def run(options: argparse.Namespace, settings: dict[str, Any], report: dict[str, Any]) -> None:
    """Measure part after part; the results are written after each."""
    end = time.monotonic() + 60 * options.minutes
    names = list(options.parts)
    started: list[Ahead] = [Ahead(names[0], options.output)]
    try:
        for index, name in enumerate(names):
            started += [Ahead(following, options.output) for following in names[index + 1 : index + 2]]
            present = started[index]
            limit = min(PARTS[name].limit * options.patience, end - time.monotonic())
            if limit < LEAST:
                present.end()
                report["parts"][name] = {"error": "left out: the time was used up"}
            else:
                print(f"{name}: {PARTS[name].about}, at most {limit:.0f} s", flush=True)
                report["parts"][name] = present.measure(settings, limit)
                print(f"{name}: {report['parts'][name]['wall_s']} s", flush=True)
            write(report, options.output)
    finally:
        for part in started:
            if part.process.poll() is None:
                part.end()


def write(report: dict[str, Any], folder: Path) -> None:
    """Write what is known so far."""
    for name, text in (("gpu.json", json.dumps(report, indent=1) + "\n"), ("gpu.md", markdown(report))):
        write_whole(folder / name, [text])


def main(args: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of gpu.json and gpu.md")
    parser.add_argument("--geometry", default="7b", choices=SIZES, help="size of student and batches (7b)")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="of frozen weights")
    parser.add_argument("--minutes", type=float, default=8.0, help="all parts together (8)")
    parser.add_argument("--patience", type=float, default=1.0, help="multiplies the time limit of each part (1)")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="which ones (all)")
    parser.add_argument("--commit", help="what is measured, where git cannot tell")
    parser.add_argument("--threads", type=int, default=0, help="threads of the CPU (torch's choice)")
    options = parser.parse_args(args)
    options.output.mkdir(parents=True, exist_ok=True)
    settings = {"geometry": options.geometry, "device": options.device, "dtype": options.dtype}
    settings |= SIZES[options.geometry]
    report = run_record(" ".join(["python -m benchmarks.gpu", *(sys.argv[1:] if args is None else args)]))
    report |= {"settings": settings, "parts": {}} | ({"commit": options.commit} if options.commit else {})
    begun = time.monotonic()
    run(options, settings | {"threads": options.threads}, report)
    report["seconds"] = round(time.monotonic() - begun, 1)
    write(report, options.output)
    print(markdown(report), flush=True)


if __name__ == "__main__":
    main()
