"""Which objective helps? ``python -m benchmarks.objectives`` (three seeds; five to ten minutes an arm and seed).

Takes the SFT weights, traces and verdicts of a finished ``make mini`` (``--mini``) and trains each arm from there for
the same number of steps on the same number of prompts: the paper's GRPO, and GRPO with overlays of
``configs/objective``. Measured are accuracy on AVQA-mini, the hearing gap (accuracy less that with silence or another
clip, whichever is higher), the share of traces that claim something of which all is true, as the world knows, the
length of completions, and rollout tokens, wasted ones apart. What an interrupted benchmark has left in ``--output`` is
not done again, so that arms and seeds can be measured in several sittings. Writes
``benchmarks/results/objectives.{json,md}`` and prints the table.
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from scipy import stats

from benchmarks.measuring.run_record import RESULTS, run_record
from inference.vllm_server import VLLMServer
from mini.evaluation import accuracies_file
from mini.pipeline import train
from mini.stage_process import ROOT, run_stage, say
from mini.summary import merge_metrics
from mini.world.claims import mentioned, truth
from mini.world.endpoints import MiniEndpoints
from mini.world.hearing import listen
from records.reasoning_tags import split_thought
from records.records import Prediction, read_jsonl
from runtime.errors import UserError

_ALONE = ("dr_grpo", "gspo", "cispo", "sapo", "gdpo", "entropy_bonus", "kl_in_reward", "reference_refresh")
_GROUPS = ("resample_groups", "refill_batch", "curriculum")

ARMS: Mapping[str, tuple[str, ...]] = {
    "grpo": (),
    "dapo": tuple(f"objective/{name}.yaml" for name in ("clip_higher", "token_mean", "mask_truncated")),
    **{name: (f"objective/{name}.yaml",) for name in (*_ALONE, *_GROUPS)},
    "grounding_endpoint": ("mini/grounding_endpoint.yaml",),
}
"""Configurations over those of GRPO, by the arm's name."""

COLUMNS = {
    "accuracy": ("accuracy, %", 100),
    "hearing_gap": ("hearing gap, points", 100),
    "true_claims": ("traces with true claims, %", 100),
    "completion_length": ("tokens of a completion", 1),
    "rollout_tokens": ("rollout tokens, thousands", 1e-3),
    "wasted_tokens": ("of them wasted", 1e-3),
}
"""Heading and unit of each figure."""


def measure(arm: str, seed: int, mini: Path, output: Path, steps: int) -> dict[str, float]:
    """Train and test one arm with one seed, unless that is done.

    Args:
        arm: A key of :data:`ARMS`.
        seed: Seed of sampling and of the order of the data.
        mini: A finished run of ``python -m mini``.
        output: Folder of this arm and seed.
        steps: Optimizer steps.
    """
    found = output / "result.json"
    if found.exists():
        return {name: float(value) for name, value in json.loads(found.read_text(encoding="utf-8")).items()}
    overlays = [word for file in ARMS[arm] for word in ("--config", file)]
    with (
        VLLMServer(mini / "student", max_num_seqs=256, max_model_len=512, log_file=output / "server.log") as server,
        MiniEndpoints() as endpoints,
    ):
        os.environ["SIGHTSOUND_SERVER"] = server.url
        os.environ["SIGHTSOUND_CHECKER"] = endpoints.url
        where = [f"--trainer.default_root_dir={output / 'grpo'}", f"--trainer.max_steps={steps}"]
        train("grpo", seed, *overlays, *where, "--ckpt_path=last", server=server)
        student = f"student={output / 'grpo' / 'best'}"
        for more in ([], ["--probes"]):
            run_stage("evaluation", ["-m", "mini.evaluation", "--output", str(output / "test"), student, *more], server)
    accuracies = accuracies_file(output / "test")
    accuracies.read()
    heard = accuracies.done["student/avqa"]
    unheard = max(accuracies.done[f"student/avqa-{probe}"] for probe in ("silence", "swap"))
    result = {
        "accuracy": heard,
        "hearing_gap": heard - unheard,
        "true_claims": true_claims(
            output / "test" / "student" / "avqa" / "predictions.jsonl", mini / "corpus" / "avqa"
        ),
        **rollouts(merge_metrics(output / "grpo")),
    }
    found.write_text(json.dumps(result), encoding="utf-8")
    return result


def true_claims(predictions: Path, corpus: Path) -> float:
    """Return the share of traces that claim something of which all is true, by the ear of the synthetic world.

    Args:
        predictions: What the student has said.
        corpus: The world's AVQA.
    """
    from datamodules.avqa import AVQADataModule

    data = AVQADataModule(str(corpus), validate_media=False)
    questions = {question.id: question for question in data.questions("test")}
    said = list(read_jsonl(predictions, Prediction))
    clips = {questions[one.question_id].media for one in said}
    likely = {media: listen(data.clips.load(media)) for media in clips}
    thoughts = [(questions[one.question_id].media, split_thought(one.completion).reasoning) for one in said]
    return fmean(bool(mentioned(thought)) and truth(likely[media], thought) > 0.5 for media, thought in thoughts)


def rollouts(metrics: Path) -> dict[str, float]:
    """Return what was sampled in training: mean length, tokens, and tokens that nothing was learnt from.

    Args:
        metrics: Metrics of the run, a row for each step.
    """
    with open(metrics, newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row.get("train/completion_length")]
    lengths = [float(row["train/completion_length"]) for row in rows]
    completions = _completions(metrics)
    tokens = wasted = 0.0
    for row, length in zip(rows, lengths, strict=True):
        kept = completions * length
        silent = float(row["train/frac_reward_zero_std"]) * kept  # of groups without variance
        vain = float(row.get("train/wasted_tokens") or silent)  # with those thrown away, where some were
        tokens += kept + max(0.0, vain - silent)
        wasted += vain
    return {"completion_length": fmean(lengths), "rollout_tokens": tokens, "wasted_tokens": wasted}


def _completions(metrics: Path) -> int:
    """Return how many completions a step has, from the configuration beside the metrics."""
    import yaml

    config = yaml.safe_load((metrics.parents[1] / "fit.yaml").read_text(encoding="utf-8"))
    return int(config["data"]["init_args"]["batch_size"]) * int(config["model"]["init_args"]["num_completions"])


def table(results: Mapping[str, Mapping[int, Mapping[str, float]]]) -> str:
    """Return the results as Markdown: mean over seeds with the half width of its 95% interval (Student's t).

    Args:
        results: Figures by arm and seed.
    """
    lines = [
        f"| arm | seeds | {' | '.join(title for title, _ in COLUMNS.values())} |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for arm, seeds in results.items():
        cells = []
        for name, (_, unit) in COLUMNS.items():
            values = [unit * figures[name] for figures in seeds.values()]
            beside = ""
            if len(values) > 1:
                half = stats.t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
                beside = f" ± {half:.1f}"
            cells.append(f"{fmean(values):.1f}{beside}")
        lines.append(f"| {arm} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.objectives",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="which arms (all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (%(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps of each (%(default)s)")
    parser.add_argument("--mini", type=Path, default=Path("runs/mini"), help="a finished `make mini` (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/objectives"), help="folder of the runs (%(default)s)")
    options = parser.parse_args(args)
    mini, output = (ROOT / options.mini).resolve(), (ROOT / options.output).resolve()
    if not (mini / "tts" / "best").is_dir():
        raise UserError(f"{mini / 'tts' / 'best'} is not there: run `make mini` first, or name its folder by --mini")
    os.environ["SIGHTSOUND_MINI"] = str(mini)
    facts = run_record(" ".join(["python -m benchmarks.objectives", *(sys.argv[1:] if args is None else args)]))
    results: dict[str, dict[int, dict[str, float]]] = {}
    for seed in options.seeds:  # a whole comparison of the first seed comes first
        for arm in options.arms:
            say(f"{arm}, seed {seed}")
            folder = output / arm / str(seed)
            folder.mkdir(parents=True, exist_ok=True)
            results.setdefault(arm, {})[seed] = measure(arm, seed, mini, folder, options.steps)
            report = {**facts, "steps": options.steps, "results": results}
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / "objectives.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            title = f"# Objectives on the synthetic world\n\n`{facts['command']}` at {facts['commit']}"
            (RESULTS / "objectives.md").write_text(f"{title}\n\n{table(results)}\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"benchmarks.objectives: {error}")
