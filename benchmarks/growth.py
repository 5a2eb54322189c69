"""How the learner step grows: ``python -m benchmarks.growth`` (about three minutes on two quiet cores).

Time of the GRPO learner step (reference forward, policy forward, backward, optimizer) against the number of
completions, the length of the prompt, the length of the clips and the vocabulary, for a small student; of the
conventional step too as far as it is quick enough. Adding completions must cost what completions cost: the slope
against G is compared with that of groups whose prompt is next to nothing. Writes ``growth.json``, ``growth.png`` and
``growth.md`` to ``benchmarks/results``.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring.learner_steps import Conventional, Ours, Setting
from benchmarks.measuring.learner_world import World, build_world
from benchmarks.measuring.run_record import RESULTS, run_record
from benchmarks.measuring.shapes import Shape
from datamodules.batching.batch import AudioQABatch

SMALL = Shape(width=256, mlp=704, layers=2, heads=4, key_heads=2, audio_width=128, audio_layers=2, audio_heads=2)
TOKENS = 64
"""Tokens of a completion."""

SWEEPS: dict[str, Sequence[float]] = {
    "completions of a prompt": (2, 4, 8, 16, 32),
    "completions of a short prompt": (2, 4, 8, 16, 32),
    "words of the prompt": (0, 50, 100, 200, 400),
    "seconds of the clip": (2, 5, 10, 20, 30),
    "vocabulary": (8192, 16_384, 40_960, 81_920, 156_032),
}
LARGEST_CONVENTIONAL = {"completions of a prompt": 16, "vocabulary": 40_960}
"""The conventional step is not measured beyond these."""


def batch_of(world: World, sweep: str, value: float) -> AudioQABatch:
    """Return the batch at one point of a sweep."""
    group, words, seconds = 4, 0, 10.0
    if sweep == "completions of a prompt":
        group = int(value)
    elif sweep == "completions of a short prompt":
        group, seconds = int(value), 0.2
    elif sweep == "words of the prompt":
        words = int(value)
    elif sweep == "seconds of the clip":
        seconds = value
    return world.grpo_batch(1, group, TOKENS, seconds, words)


def systems_of(shape: Shape, world: World, clock: str) -> dict[str, Conventional | Ours]:
    """Return what is measured, for students of one shape."""
    setting = Setting(shape, clock=clock)
    return {"ours": Ours(setting, world), "conventional": Conventional(setting, world)}


def seconds_of(system: Conventional | Ours, batch: AudioQABatch, repeats: int) -> float:
    """Return the quickest of several steps."""
    return min(system.take("grpo", batch, repeats).seconds)


def slope(points: Sequence[dict[str, float]], system: str) -> float:
    """Return seconds for each unit of a sweep, by least squares."""
    known = [(p["value"], p[system]) for p in points if system in p]
    values, seconds = zip(*known, strict=True)
    return float(np.polyfit(values, seconds, 1)[0])


def main(args: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of the CPU (2)")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="as in benchmarks.learner")
    parser.add_argument("--repeats", type=int, default=3, help="steps, of which the quickest counts (3)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    report = run_record(" ".join(["python -m benchmarks.growth", *(sys.argv[1:] if args is None else args)]))
    world = build_world()
    systems = systems_of(SMALL, world, options.clock)
    sweeps: dict[str, Any] = {}
    for sweep, values in SWEEPS.items():
        points: list[dict[str, float]] = []
        for value in values:
            batch = batch_of(world, sweep, value)
            if sweep == "vocabulary":
                wide = dataclasses.replace(SMALL, vocabulary=int(value))
                systems = systems_of(wide, world, options.clock)
            point = {"value": float(value), "prompt_tokens": float(batch.prompt_lengths[0])}
            for name, system in systems.items():
                if name == "ours" or value <= LARGEST_CONVENTIONAL.get(sweep, float("inf")):
                    point[name] = round(seconds_of(system, batch, options.repeats), 4)
            points.append(point)
            print(sweep, point, flush=True)
        sweeps[sweep] = points
    with_prompt, alone = (slope(sweeps[f"completions of a {s}prompt"], "ours") for s in ("", "short "))
    conventional = slope(sweeps["completions of a prompt"], "conventional")
    report |= {
        "shape": dataclasses.asdict(SMALL),
        "completion_tokens": TOKENS,
        "sweeps": sweeps,
        "seconds_per_completion": {
            "ours": round(with_prompt, 5),
            "completions alone": round(alone, 5),
            "conventional": round(conventional, 5),
        },
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "growth.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (options.output / "growth.md").write_text(table(report), encoding="utf-8")
    plot(options.output / "growth.png", sweeps)
    print(table(report))


def table(report: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    each = report["seconds_per_completion"]
    lines = [
        "# Growth of the learner step",
        "",
        f"`{report['command']}` at {report['commit']}; {report['machine']}, load {report['load_before']}",
        "",
        f"One completion more ({report['completion_tokens']} tokens) costs {1000 * each['ours']:.1f} ms after a prompt "
        f"with a 10-second clip and {1000 * each['completions alone']:.1f} ms after next to no prompt; "
        f"{1000 * each['conventional']:.1f} ms in the conventional step.",
    ]
    for sweep, points in report["sweeps"].items():
        lines += ["", f"| {sweep} | prompt tokens | ours, s | conventional, s |", "|---|---|---|---|"]
        for p in points:
            theirs = f"{p['conventional']:.3f}" if "conventional" in p else "-"
            lines.append(f"| {p['value']:g} | {p['prompt_tokens']:.0f} | {p['ours']:.3f} | {theirs} |")
    return "\n".join(lines) + "\n"


def plot(path: Path, sweeps: dict[str, list[dict[str, float]]]) -> None:
    """Draw each sweep."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(13, 3), layout="constrained")
    for axes, (sweep, points) in zip(figure.subplots(1, len(sweeps)), sweeps.items(), strict=True):
        for name in ("ours", "conventional"):
            known = [(p["value"], p[name]) for p in points if name in p]
            axes.plot(*zip(*known, strict=True), "o-", label=name)
        axes.set_xlabel(sweep, fontsize=8)
        axes.set_ylim(0)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(labelsize=7)
    figure.axes[0].set_ylabel("seconds")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
