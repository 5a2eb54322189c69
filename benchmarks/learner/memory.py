"""Peak memory of a step, each system in a process of its own."""

import argparse
import json
import resource
import subprocess
import sys
from typing import Any

import torch

from benchmarks.learner.cases import cases_of, setting_of
from benchmarks.measuring.learner_steps import SYSTEMS, Conventional, Ours
from benchmarks.measuring.learner_world import World


def peak_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Return peak memory of both systems by task; to be called before this process takes memory itself."""
    found = {}
    for task in ("grpo", "sft"):
        if task in options.tasks:
            row: dict[str, Any] = {name: memory_of(options, name, task) for name in SYSTEMS}
            row["ratio"] = round(row["ours"]["peak"] / row["conventional"]["peak"], 3)
            found[task] = row
            print(f"{task}: peak memory {row}", flush=True)
    return found


def memory_of(options: argparse.Namespace, system: str, task: str) -> dict[str, float]:
    """Return peak memory in GB of a process that takes two steps, and what it had before them."""
    command = [sys.executable, "-m", "benchmarks.learner", "--memory-of", system, "--tasks", task]
    for name in ("device", "shape", "dtype", "threads", "questions", "group", "tokens", "seconds"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--checkpointing"] if options.checkpointing else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "OutOfMemoryError" in done.stderr:
        return {"before": float("nan"), "peak": float("inf")}
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def report_memory(options: argparse.Namespace, world: World) -> None:
    """Take two steps and print the peak: resident memory, or the device's allocated memory.

    Raises:
        torch.cuda.OutOfMemoryError: The device's memory does not suffice.
    """
    setting, task = setting_of(options), options.tasks[0]
    system = (Ours if options.memory_of == "ours" else Conventional)(setting, world)
    batch = cases_of(options, world)[task]

    def peak() -> float:
        if options.device == "cuda":
            return torch.cuda.max_memory_allocated() / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9

    before = peak()
    if not system.take(task, batch, 1).seconds:
        raise torch.cuda.OutOfMemoryError(f"{options.memory_of} cannot take a step of {task}")
    print(json.dumps({"before": round(before, 2), "peak": round(peak(), 2)}))
