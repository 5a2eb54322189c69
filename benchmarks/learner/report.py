"""The results as files: JSON, a table, a picture."""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.learner import whole_step
from benchmarks.measuring.learner_steps import SYSTEMS

THROUGHPUT = ("completion_tokens_per_s", "flops_utilisation")


def write(report: dict[str, Any], options: argparse.Namespace) -> None:
    """Write what has been measured so far."""
    options.output.mkdir(parents=True, exist_ok=True)
    name = "learner" if options.device == "cpu" else f"learner_{options.device}_{options.shape}"
    (options.output / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (options.output / f"{name}.md").write_text(table(report), encoding="utf-8")
    if report["results"]:
        plot(options.output / f"{name}.png", report)


def table(report: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# The learner against the conventional step",
        "",
        f"`{report['command']}` at {report['commit']}; {report['machine']}, load {report['load_before']}; "
        + ", ".join(f"{name} {number}" for name, number in report["versions"].items()),
        "",
    ]
    lines += _steps_table(report) if report["results"] else []
    if memory := report.get("memory"):
        lines += ["", "| peak memory, GB | conventional | ours | ratio | before the steps |", "|---|---|---|---|---|"]
        for task, row in memory.items():
            theirs, mine = row["conventional"], row["ours"]
            lines.append(
                f"| {task} | {theirs['peak']:.2f} | {mine['peak']:.2f} | {row['ratio']:.2f} | {mine['before']:.2f} |"
            )
    if kernels := report.get("attention"):
        lines += ["", "| attention kernel | our GRPO step, s |", "|---|---|"]
        for name, found in kernels.items():
            lines.append(f"| {name} | {found['median'] if isinstance(found, dict) else found} |")
    if whole := report.get("whole_step"):
        parts = list(whole_step.PARTS.values())
        lines += ["", f"| whole GRPO step, s | {' | '.join(parts)} | all | completion tokens |"]
        lines.append("|---|---|---|---|---|---|")
        for name in SYSTEMS:
            cells = [f"{whole[name]['parts'].get(part, 0):.2f}" for part in parts]
            cells += [_median(whole[name]), f"{whole[name]['tokens']:.0f}"]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    if peers := report.get("peers"):
        lines += ["", "| peer | seconds | ours, s | ratio (lowest to highest) |", "|---|---|---|---|"]
        for row in peers:
            lines.append(f"| {row['name']} | {row['seconds']:.2f} | {row['ours']:.2f} | {_ratio(row['ratio'])} |")
        hears = report["trl"]["hears"]
        lines += ["", f"TRL's learner {'gets' if hears else 'does not get'} the audio: {json.dumps(report['trl'])}"]
    lines += ["", f"Collating 8 clips: {report['collating']['conventional']:.3f} s conventionally, "]
    lines[-1] += f"{report['collating']['ours']:.3f} s here."
    return "\n".join(lines) + "\n"


def _steps_table(report: dict[str, Any]) -> list[str]:
    lines = ["| step | conventional, s | ours, s | ratio (lowest to highest) | bar | largest difference |"]
    lines.append("|---|---|---|---|---|---|")
    for case, row in report["results"].items():
        ratio = row.get("ratio")
        cells = [_median(row[name]) for name in SYSTEMS]
        cells.append(_ratio(ratio) if ratio else "-")
        cells += [str(row["bar"] or "-"), f"{row['largest_difference']:.1e}" if ratio else "-"]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    lines += ["", "| step | completion tokens/s, conventional | ours | FLOPs utilisation, conventional | ours |"]
    lines.append("|---|---|---|---|---|")
    for case, row in report["results"].items():
        cells = [str(row[name].get(key, "-")) for key in THROUGHPUT for name in SYSTEMS]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    lines += ["", f"Utilisation is of {report['peak_tflops']} TFLOP/s, counted on the tokens that are needed."]
    lines += ["", "| part, s | conventional | ours |", "|---|---|---|"]
    for case, row in report["results"].items():
        theirs, ours = row["conventional"]["parts"], row["ours"]["parts"]
        parts = list(dict.fromkeys([*theirs, *ours]))
        lines += [f"| {case}: {part} | {theirs.get(part, 0):.3f} | {ours.get(part, 0):.3f} |" for part in parts]
    return lines


def _ratio(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"


def _median(summary: dict[str, Any]) -> str:
    return f"{summary['seconds']['median']:.2f}" if summary["seconds"] else "out of memory"


def plot(path: Path, report: dict[str, Any]) -> None:
    """Draw where the time goes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    parts = list(dict.fromkeys(p for r in report["results"].values() for s in SYSTEMS for p in r[s]["parts"]))
    bars = [(case, name) for case in report["results"] for name in SYSTEMS]
    left = [0.0] * len(bars)
    for part in parts:
        widths = [report["results"][case][name]["parts"].get(part, 0.0) for case, name in bars]
        axes.barh(range(len(bars)), widths, left=left, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(bars)), [f"{case}, {name}" for case, name in bars])
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)
