"""The whole GRPO step with and without overlap: ``python -m benchmarks.overlap`` (about two minutes on two cores).

GRPOModule in a real Trainer with real weight pushes, against a server that makes its answers up and takes as long for
them as the learner's step does: once strictly on-policy, once with ``max_staleness`` 1. Writes ``overlap.json`` and
``overlap.md`` to ``benchmarks/results``.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.fake_server import FakeServer
from benchmarks.measuring import training_run
from benchmarks.measuring.learner_world import World, build_model, build_world
from benchmarks.measuring.run_record import RESULTS, run_record, spread
from benchmarks.measuring.shapes import SHAPES
from benchmarks.measuring.training_run import PARTS, Clock, Questions
from callbacks.rollout.vllm_rollout import VLLMRollout
from lightning_modules.grpo import GRPOModule
from lightning_modules.models.adapters import LoRASettings
from lightning_modules.models.student import Student

BAR = 0.6


def run(weights: Path, world: World, staleness: int, seconds: float, options: argparse.Namespace) -> Clock:
    """Train some batches against a server that takes ``seconds`` for a batch."""
    torch.manual_seed(0)
    module = GRPOModule(str(weights), num_completions=8, lora=LoRASettings())
    with FakeServer(weights, settings={"max_model_len": 4096}) as server:
        server.behave = lambda route, body: time.sleep(seconds) if route.endswith("generate") else None
        rollouts = VLLMRollout([server.url], max_new_tokens=33, parity_gate=False, seed=0, max_staleness=staleness)
        return training_run.run(module, rollouts, Questions(world, options.batches, options.batch_size))


def main(args: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overlap", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="bench", choices=SHAPES, help="size of the student (bench)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the CPU (2)")
    parser.add_argument("--batches", type=int, default=8, help="batches of each run (8)")
    parser.add_argument("--batch-size", type=int, default=4, help="questions of a batch (4)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    report = run_record(" ".join(["python -m benchmarks.overlap", *(sys.argv[1:] if args is None else args)]))
    world = build_world(SHAPES[options.shape].vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "student"
        Student.of_model(build_model(SHAPES[options.shape], world), world.processor).save_pretrained(weights)
        learner = spread(run(weights, world, 0, 0.0, options).part("time/learner"))["median"]
        clocks = [run(weights, world, staleness, learner, options) for staleness in (0, 1)]
    serial, overlapped = (spread(clock.steps) for clock in clocks)
    report |= {
        "server_seconds": learner,
        "serial": serial,
        "overlapped": overlapped,
        "ratio": round(overlapped["median"] / serial["median"], 3),
        "bar": BAR,
        "parts": {
            name: {part: spread(clock.part(part))["median"] for part in PARTS}
            for name, clock in zip(("serial", "overlapped"), clocks, strict=True)
        },
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "overlap.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (options.output / "overlap.md").write_text(table(report), encoding="utf-8")
    print(table(report))


def table(report: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Overlap of rollouts and learner",
        "",
        f"`{report['command']}` at {report['commit']}; {report['machine']}, load {report['load_before']}. The server "
        f"takes {report['server_seconds']:.2f} s for a batch, as long as the learner.",
        "",
        f"| median seconds | a step | {' | '.join(PARTS)} |",
        f"|---|---|{'---|' * len(PARTS)}",
    ]
    for name, parts in report["parts"].items():
        cells = " | ".join(f"{parts[part]:.2f}" for part in PARTS)
        lines.append(f"| {name} | {report[name]['median']:.2f} | {cells} |")
    lines += ["", f"Ratio {report['ratio']:.2f} (bar: at most {report['bar']})."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
