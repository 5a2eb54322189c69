"""What do the filters do? ``python -m benchmarks.filtering`` (three seeds; about six minutes each on two cores).

For each seed the synthetic world's teacher watches, its checker hears, and three students learn what is left: every
trace (SFT), the accepted ones (AGFV + SFT), and those of unanimous questions (TTS + AGFV + SFT). Also: which
traces the checker removed, by the truth about each clip, and how well the trained verifier, calibrated on 300 verdicts,
does on the verdicts on other clips. Writes ``benchmarks/results/filtering.{json,md}`` and prints the table.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.learning import best_accuracy
from benchmarks.measuring.run_record import RESULTS, run_record
from datamodules.avqa import AVQADataModule
from mini.build_world import build_world
from mini.evaluation import STUDENTS
from mini.pipeline import ABLATIONS, predict, train, train_py
from mini.stage_process import ROOT, say
from mini.world.claims import mentioned
from records.record_files import read_records
from records.records import Trace, Verdict
from train import main as train_main


def measure(seed: int, output: Path) -> dict[str, Any]:
    """Run one seed and return its figures."""
    os.environ["SIGHTSOUND_MINI"] = str(output)
    build_world(output, seed)
    for stage in ("teacher", "verify"):
        predict(stage)  # a benchmark that was interrupted goes on where it was
    result: dict[str, Any] = {"seed": seed, **checked(output)}
    for folder, ablation in ABLATIONS.items():
        overlay = ("--config", f"ablation/{ablation}.yaml", f"--trainer.default_root_dir={output / folder}")
        train("sft", seed, *overlay, "--ckpt_path", "last")
        result[folder] = best_accuracy(output / folder)
    train_py("fit", "verifier", f"--seed_everything={seed}")
    head = output / "verifier" / "head"
    configs = ("--config", "verifier.yaml", "--config", "mini/verifier.yaml")
    found = train_main(["test", *configs, f"--model.init_args.head={head}"]).trainer.callback_metrics
    return result | {f"verifier_{name}": float(found[f"test/{name}"]) for name in ("auroc", "accuracy", "ece")}


def checked(output: Path) -> dict[str, Any]:
    """Count the traces that the checker accepted and rejected, by the truth about their clips.

    A trace is hallucinated when it names a sound that is not in its clip, and grounded when what it names are the
    clip's sounds in their order and its answer is right; the others leave something out.
    """
    scenes = json.loads((output / "corpus" / "scenes.json").read_text(encoding="utf-8"))
    questions = {q.id: q for q in AVQADataModule(str(output / "corpus" / "avqa")).questions("train")}
    verdicts = {
        (verdict.question_id, verdict.sample): verdict.accepted
        for verdict in read_records([str(output / "verify" / "verdicts")], Verdict)
    }
    counts: Counter[tuple[str, bool]] = Counter()
    for trace in read_records([str(output / "teacher" / "traces")], Trace):
        question = questions[trace.question_id]
        heard = scenes[f"avqa/{question.media}"]["heard"]
        named = [sound for sound, is_heard in mentioned(trace.reasoning) if is_heard]
        right = named == heard and trace.answer == question.answer_text
        kind = "hallucinated" if set(named) - set(heard) else "grounded" if right else "incomplete"
        counts[kind, verdicts[trace.question_id, trace.sample]] += 1
    kinds = ("hallucinated", "grounded", "incomplete")
    return {kind: {"rejected": counts[kind, False], "accepted": counts[kind, True]} for kind in kinds}


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    names = [STUDENTS[folder] for folder in ABLATIONS]
    lines = [
        f"| seed | hallucinated: removed | grounded: kept | {' | '.join(names)} | trained verifier: AUROC | ECE |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        false, true = row["hallucinated"], row["grounded"]
        removed = f"{false['rejected']} of {sum(false.values())}"
        kept = f"{true['accepted']} of {sum(true.values())}"
        shares = [f"{100 * row[folder]:.1f}%" for folder in ABLATIONS]
        verifier = [f"{row['verifier_auroc']:.3f}", f"{row['verifier_ece']:.3f}"]
        lines.append(f"| {' | '.join([str(row['seed']), removed, kept, *shares, *verifier])} |")
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.filtering", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    parser.add_argument("--output", default="runs/filtering", help="folder of the runs (runs/filtering)")
    options = parser.parse_args(args)
    command = ["python -m benchmarks.filtering", *(sys.argv[1:] if args is None else args)]
    facts = run_record(" ".join(command))
    results = []
    for seed in options.seeds:
        say(f"seed {seed}")
        results.append(measure(seed, (ROOT / options.output / str(seed)).resolve()))
        RESULTS.mkdir(exist_ok=True)
        report = {**facts, "results": results}
        (RESULTS / "filtering.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        text = f"# Filters on the synthetic world\n\n`{facts['command']}` at {facts['commit']}\n\n{table(results)}\n"
        (RESULTS / "filtering.md").write_text(text, encoding="utf-8")
        say(table(results))


if __name__ == "__main__":
    main()
