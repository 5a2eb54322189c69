"""Does GRPO learn? ``python -m benchmarks.learning`` (three seeds; about ten minutes each on two cores).

SFT on the synthetic corpus' reference traces, GRPO from there against a real vLLM server, and a control that is GRPO
with the same rewards dealt out to the completions of the batch at random. The reference teacher is often careless: its
trace then says nothing and its answer is wrong, mostly where order is asked for. SFT learns that habit, and no check of
facts removes it. Whether GRPO unlearns it, because of the rewards, is what is measured. Rewarded are the true answers:
those of a careless teacher are no labels. Writes ``benchmarks/results/learning.{json,md}`` and prints the table.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring.run_record import RESULTS, run_record
from datamodules.batching.batch import AudioQABatch
from inference.vllm_server import VLLMServer
from lightning_modules.grpo import GRPOModule
from mini.build_world import build_world
from mini.pipeline import train
from mini.stage_process import ROOT, say
from mini.summary import merge_metrics, rewards
from mini.world.corpus import CorpusConfig

SHUFFLED = "benchmarks.learning.ShuffledRewardGRPO"
TARGETS = {"sft": 0.55, "gain": 0.12, "reward_gain": 0.40}


class ShuffledRewardGRPO(GRPOModule):
    """The control: rewards keep their distribution and lose their meaning."""

    def compute_rewards(self, batch: AudioQABatch) -> dict[str, Tensor]:
        """Deal the batch's rewards out to its completions at random."""
        parts = super().compute_rewards(batch)
        order = torch.randperm(next(iter(parts.values())).numel())
        return {name: value.flatten()[order].view_as(value) for name, value in parts.items()}


def best_accuracy(stage: Path) -> float:
    """Return the validation accuracy of a stage's exported weights."""
    return float(json.loads((stage / "best" / "training.json").read_text(encoding="utf-8"))["val/accuracy"])


def reference_data(output: Path) -> list[str]:
    """Return the arguments that select the reference traces, unanimous or not."""
    data = {
        "traces": output / "corpus" / "traces.jsonl",
        "verdicts": output / "corpus" / "verdicts.jsonl",
        "unanimous": "false",
        "verified": "true",
    }
    return [f"--data.init_args.{name}={value}" for name, value in data.items()]


def measure(seed: int, output: Path, with_control: bool) -> dict[str, Any]:
    """Run one seed and return its figures; what an interrupted benchmark has left in ``output`` is not done again."""
    os.environ["SIGHTSOUND_MINI"] = str(output)
    found = output / "result.json"
    result: dict[str, Any] = json.loads(found.read_text(encoding="utf-8")) if found.exists() else {"seed": seed}
    if "grpo" in result and ("control" in result or not with_control):
        return result
    build_world(output, seed, CorpusConfig(seed=seed, silent=0.12, hidden=0.06))
    data = reference_data(output)
    last = "--ckpt_path=last"
    grpo = [
        *(*data, "--data.init_args.label=ground_truth", f"--model.init_args.weights={output / 'sft' / 'best'}"),
        *("--trainer.max_steps=100", "--model.init_args.lr=3e-4", "--model.init_args.schedule=constant_with_warmup"),
        *("--model.init_args.beta=0.02", "--trainer.val_check_interval=20", last),
    ]
    with VLLMServer(output / "student", max_num_seqs=256, max_model_len=512, log_file=output / "server.log") as server:
        os.environ["SIGHTSOUND_SERVER"] = server.url
        if "grpo" not in result:
            train("sft", seed, *data, "--trainer.max_steps=600", "--trainer.val_check_interval=600", last)
            train("grpo", seed, *grpo)
            before, after = rewards(merge_metrics(output / "grpo"))
            result |= {"sft": best_accuracy(output / "sft"), "grpo": best_accuracy(output / "grpo")}
            result |= {"reward_first": before, "reward_last": after}
            found.write_text(json.dumps(result), encoding="utf-8")
        if with_control:
            control = output / "control"
            train("grpo", seed, *grpo, f"--model={SHUFFLED}", f"--trainer.default_root_dir={control}")
            before, after = rewards(merge_metrics(control))
            result |= {"control": best_accuracy(control), "control_reward_first": before, "control_reward_last": after}
            found.write_text(json.dumps(result), encoding="utf-8")
    return result


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| seed | SFT | GRPO | control | reward, first 5 steps | reward, last 5 | control: first 5 | last 5 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        shares = [f"{100 * row[name]:.1f}%" if name in row else "-" for name in ("sft", "grpo", "control")]
        names = ("reward_first", "reward_last", "control_reward_first", "control_reward_last")
        means = [f"{row[name]:.2f}" if name in row else "-" for name in names]
        lines.append(f"| {' | '.join([str(row['seed']), *shares, *means])} |")
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    parser.add_argument("--controls", type=int, default=3, help="of how many seeds the control is run too (3)")
    parser.add_argument("--output", default="runs/learning", help="folder of the runs (runs/learning)")
    options = parser.parse_args(args)
    command = ["python -m benchmarks.learning", *(sys.argv[1:] if args is None else args)]
    facts = run_record(" ".join(command))
    results = []
    for place, seed in enumerate(options.seeds):
        say(f"seed {seed}")
        results.append(measure(seed, (ROOT / options.output / str(seed)).resolve(), place < options.controls))
        report = {
            **facts,
            "bars": TARGETS,
            "results": results,
            "mean_gain": fmean(row["grpo"] - row["sft"] for row in results),
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "learning.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        text = f"# Learning on the synthetic world\n\n`{facts['command']}` at {facts['commit']}\n\n{table(results)}\n"
        (RESULTS / "learning.md").write_text(text, encoding="utf-8")
        say(table(results))


if __name__ == "__main__":
    main()
