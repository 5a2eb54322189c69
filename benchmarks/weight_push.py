"""How long a push of weights takes and what it takes of main memory: ``python -m benchmarks.weight_push``.

One real vLLM server on the CPU is given a student of 1.1 GB again and again, as files and over gloo in turns, by what a
run pushes with. Every round is kept as soon as it is measured, so that an interrupted measurement goes on where it was;
the student is made in a temporary folder. Writes ``weight_push.json`` and ``weight_push.md`` to ``benchmarks/results``.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.measuring.learner_world import build_model, build_world
from benchmarks.measuring.run_record import RESULTS, run_record, spread
from benchmarks.measuring.shapes import Shape
from callbacks.rollout.transfer_pusher import TransferPusher
from callbacks.rollout.weight_pusher import WeightPusher
from inference.server_pool import ServerPool
from inference.vllm_server import VLLMServer
from inference.weight_transfer.gloo import GlooTransfer
from lightning_modules.models.student import Student

BAR_SECONDS = 0.5
"""Of the time of files."""

BAR_BUCKETS = 2.0

IN_A_ROW = 2
"""Pushes of one way before it is the other's turn."""

SHAPE = Shape(8192, 1536, 4096, 10, 12, 4, 256, 2, 4)


class Alone:
    """A trainer of one process, as far as pushes know it."""

    is_global_zero, world_size, num_nodes, global_step = True, 1, 1, 0

    def __init__(self, root: str) -> None:
        """Keep its folder.

        Args:
            root: Where it would write.
        """
        self.default_root_dir = root
        self.strategy = SimpleNamespace(broadcast=lambda sent: sent, reduce_boolean_decision=lambda decision: decision)


class PeakMemory:
    """The most main memory that processes take beyond what they have now, by the kernel's own count."""

    def __init__(self, pids: Sequence[int]) -> None:
        """Begin.

        Args:
            pids: The processes.
        """
        self.pids = pids
        for pid in pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")  # the highest mark falls to the present
        self._before = [_status(pid, "VmRSS") for pid in pids]

    def extra(self) -> list[int]:
        """Return bytes of each process."""
        return [_status(pid, "VmHWM") - before for pid, before in zip(self.pids, self._before, strict=True)]


def _status(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def engine_of(server: VLLMServer) -> int:
    """Return the process of a server that has the model: the largest of those that stem from it."""
    assert server.process is not None
    found = [server.process.pid]
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(file.parent.name)] = int(file.read_text(errors="replace").rpartition(")")[2].split()[1])
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return max(found, key=lambda pid: _status(pid, "VmRSS"))


def computed(pids: Sequence[int]) -> float:
    """Return the seconds that processes have computed: what others do on the machine does not count."""
    stats = [Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split() for pid in pids]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def next_way(rounds: dict[str, list[Any]], wanted: int) -> str | None:
    """Return the way that has been measured least, None where there is enough of all."""
    way = min(rounds, key=lambda name: len(rounds[name]))
    return way if len(rounds[way]) < wanted else None


@contextlib.contextmanager
def pusher(url: str, way: str, bucket_mib: int) -> Iterator[WeightPusher]:
    """Yield what pushes as files or over gloo."""
    pool = ServerPool([url])
    pool.wait(1)
    made = WeightPusher(pool) if way == "files" else TransferPusher(pool, GlooTransfer(bucket_mib=bucket_mib))
    try:
        yield made
    finally:
        pool.close()
        made.close()


def measure(options: argparse.Namespace, report: dict[str, Any], keep: Any) -> None:
    """Push in turns until there are enough rounds."""
    with tempfile.TemporaryDirectory() as folder:
        world = build_world(SHAPE.vocabulary)
        weights = f"{folder}/student"
        Student.of_model(build_model(SHAPE, world), world.processor).save_pretrained(weights)
        student = Student(weights)
        report["gigabytes"] = round(sum(part.nbytes for part in student.hub_shapes().values()) / 1e9, 3)
        log = f"{folder}/server.log"
        with VLLMServer(weights, max_num_seqs=4, max_model_len=1024, weight_transfer="gloo", log_file=log) as server:
            engine = engine_of(server)
            trainer = Alone(folder)
            while way := next_way(report["rounds"], options.rounds):
                with pusher(server.url, way, options.bucket_mib) as found:
                    for step in range(1 + IN_A_ROW):
                        trainer.global_step = step
                        measured = push(found, trainer, student, engine)
                        if step:  # the first one finds the way
                            report["rounds"][way].append(measured)
                            keep(report)


def push(way: WeightPusher, trainer: Any, student: Student, engine: int) -> dict[str, float]:
    """Push once and return seconds and megabytes."""
    both = [os.getpid(), engine]
    memory, spent, begun = PeakMemory(both), computed(both), time.perf_counter()
    way.push(trainer, student, "benchmark")
    seconds = time.perf_counter() - begun
    of_trainer, of_server = memory.extra()
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(computed(both) - spent, 2),
        "trainer_mb": round(of_trainer / 1e6, 1),
        "server_mb": round(of_server / 1e6, 1),
    }


def main(args: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.weight_push",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=6, help="pushes of each way (6)")
    parser.add_argument("--bucket-mib", type=int, default=128, help="size of a bucket (128)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the trainer (1)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    file = options.output / "weight_push.json"
    command = " ".join(["python -m benchmarks.weight_push", *(sys.argv[1:] if args is None else args)])
    report = begin(file, command, options)
    options.output.mkdir(parents=True, exist_ok=True)
    measure(options, report, lambda kept: file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8"))
    report |= summary(report)
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (options.output / "weight_push.md").write_text(table(report), encoding="utf-8")
    print(table(report))


def begin(file: Path, command: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return an interrupted measurement of the same command, or a new one."""
    with contextlib.suppress(OSError, ValueError):
        kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if kept["command"] == command and "ratio" not in kept:
            return kept
    return run_record(command) | {"bucket_mib": options.bucket_mib, "rounds": {"files": [], "gloo": []}}


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """Return medians, and what the bars are compared with."""
    rounds = report["rounds"]
    times = {way: spread([found["seconds"] for found in rounds[way]]) for way in rounds}
    computing = {way: spread([found["cpu_seconds"] for found in rounds[way]]) for way in rounds}
    bucket = report["bucket_mib"] * 1.048576
    return {
        "seconds": times,
        "cpu_seconds": computing,
        "ratio_of_cpu": round(computing["gloo"]["median"] / computing["files"]["median"], 3),
        "ratio": round(times["gloo"]["median"] / times["files"]["median"], 3),
        "bar": BAR_SECONDS,
        "buckets": {
            side: round(max(found[f"{side}_mb"] for found in rounds["gloo"]) / bucket, 2)
            for side in ("trainer", "server")
        },
        "bar_buckets": BAR_BUCKETS,
    }


def table(report: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Pushes of weights",
        "",
        f"`{report['command']}` at {report['commit']}; {report['machine']}, load {report['load_before']}; "
        f"{report['gigabytes']} GB in float32, buckets of {report['bucket_mib']} MiB.",
        "",
        "| | seconds, median (lowest to highest) | of both processes' CPU | main memory beyond, MB: trainer | server "
        "| `/dev/shm` |",
        "|---|---|---|---|---|---|",
    ]
    for way, rounds in report["rounds"].items():
        seconds = report["seconds"][way]
        most = {name: max(found[name] for found in rounds) for name in ("trainer_mb", "server_mb")}
        shared = round(1000 * report["gigabytes"]) if way == "files" else 0
        lines.append(
            f"| {way} | {seconds['median']:.2f} ({seconds['lowest']:.2f} to {seconds['highest']:.2f}) | "
            f"{report['cpu_seconds'][way]['median']:.2f} | "
            f"{most['trainer_mb']:.0f} | {most['server_mb']:.0f} | {shared} |"
        )
    lines += [
        "",
        f"Ratio {report['ratio']:.2f} (bar: at most {report['bar']}), of CPU seconds {report['ratio_of_cpu']:.2f}. "
        f"Buckets beyond: trainer "
        f"{report['buckets']['trainer']:.1f}, server {report['buckets']['server']:.1f} (bar: at most "
        f"{report['bar_buckets']:.0f}).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
