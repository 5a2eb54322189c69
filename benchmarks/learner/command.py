"""The command line of the learner's benchmark, and the run that it describes."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.learner import whole_step
from benchmarks.learner.cases import TARGETS, attention_backends, collating, measure
from benchmarks.learner.memory import peak_memory
from benchmarks.learner.report import write
from benchmarks.measuring.learner_steps import SYSTEMS
from benchmarks.measuring.learner_world import World, build_world
from benchmarks.measuring.needed_flops import peak_flops
from benchmarks.measuring.run_record import RESULTS, run_record
from benchmarks.measuring.shapes import SHAPES

TASKS = ("grpo", "sft", "step")


def options_of(parser: argparse.ArgumentParser, args: Sequence[str] | None) -> argparse.Namespace:
    """Add sizes and tasks to a command line and read it; the threads are set."""
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--shape", default="bench", choices=SHAPES, help="size of the student (bench)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2, help="threads of the CPU (2)")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=["wall", "cpu"],
        help="wall, or cpu with one thread on a machine that is shared",
    )
    parser.add_argument("--rounds", type=int, default=4, help="rounds after the first, which warms up (4)")
    parser.add_argument("--questions", type=int, default=2, help="prompts of the GRPO batch (2)")
    parser.add_argument("--group", type=int, default=8, help="completions of each (8)")
    parser.add_argument("--tokens", type=int, default=150, help="tokens of each completion (150)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the clips (10)")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, on both sides")
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=list(TASKS),
        choices=TASKS,
        help="learner step of GRPO, step of SFT, whole GRPO step with a vLLM server (all three)",
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory")
    parser.add_argument("--backends", action="store_true", help="measure each of PyTorch's attention kernels too")
    parser.add_argument("--memory-of", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    return options


def world_of(options: argparse.Namespace) -> World:
    """Return the questions for the student's vocabulary."""
    return build_world(SHAPES[options.shape].vocabulary)


def run(options: argparse.Namespace, world: World, command: str) -> dict[str, Any]:
    """Measure what the options ask for and write it; returns the report."""
    options.peak = peak_flops(options.device, getattr(torch, options.dtype))
    shape = dataclasses.asdict(SHAPES[options.shape])
    report = run_record(command) | {"shape": shape, "peak_tflops": round(options.peak / 1e12, 2), "bars": TARGETS}
    if options.device == "cuda":
        report["gpu"] = torch.cuda.get_device_name()
    if not options.no_memory:
        report["memory"] = peak_memory(options)
    report["results"] = measure(options, world)
    report["collating"] = collating(world)
    write(report, options)
    if options.backends:
        report["attention"] = attention_backends(options, world)
    if "step" in options.tasks:
        report["whole_step"] = whole_step.measure(options, SHAPES[options.shape], world)
    write(report, options)
    return report
