"""The report's plots, as SVG: accuracy by category with intervals, reward and accuracy over training."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.accuracy import AVERAGE, BenchmarkScore, Score
from evaluation.benchmarks import BENCHMARKS
from evaluation.tables import Scores
from runtime.errors import UserError

_REWARDS = ("train/reward", "train/reward/accuracy", "train/reward/format")
_ACCURACY = "val/accuracy"
_STYLE: Any = {"svg.hashsalt": "sightsound-r1", "svg.fonttype": "none", "font.size": 9.0}


@dataclass(frozen=True)
class Plot:
    """A drawing.

    Attributes:
        name: For its file.
        title: What it shows.
        svg: The drawing.
    """

    name: str
    title: str
    svg: str


def category_plots(scores: Scores) -> list[Plot]:
    """Return for each benchmark the accuracy of each run in each category, with 95% intervals."""
    plots = []
    for name, about in BENCHMARKS.items():
        runs = {run: ours[name] for run, ours in scores.items() if name in ours}
        if runs:
            title = f"{about.title}: accuracy by category"
            plots.append(Plot(f"{name}-categories", title, _categories(runs, title)))
    return plots


def _categories(runs: Mapping[str, BenchmarkScore], title: str) -> str:
    asked = {category: None for score in runs.values() for category, s in score.categories.items() if s.questions}
    names = [*asked, AVERAGE]
    width = 0.8 / len(runs)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(max(4.0, 0.35 * len(names) * len(runs) + 2.5), 3.2), layout="constrained")
        axes: Axes = figure.add_subplot()
        for place, (run, score) in enumerate(runs.items()):
            drawn = [
                (x, s) for x, name in enumerate(names) if (s := score.scores.get(name)) is not None and s.questions
            ]
            axes.bar(
                [x + (place - (len(runs) - 1) / 2) * width for x, _ in drawn],
                [100 * s.accuracy for _, s in drawn],
                width,
                yerr=[[_below(s) for _, s in drawn], [_above(s) for _, s in drawn]],
                capsize=2,
                label=run,
            )
        axes.set_xticks(range(len(names)), names, rotation=30 if len(names) > 5 else 0)
        axes.set(ylim=(0, 105), ylabel="accuracy in %", title=title)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        return _svg(figure)


def curve_plot(name: str, path: Path) -> Plot:
    """Return reward and validation accuracy over the steps of a run.

    Args:
        name: The run's name.
        path: ``metrics.csv`` of Lightning's CSVLogger.

    Raises:
        UserError: The file is missing, or has neither of the two.
    """
    curves = read_curves(path)
    rewards = {metric: curves[metric] for metric in _REWARDS if metric in curves}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.5, 3.0), layout="constrained")
        kinds = [kind for kind in (rewards, {k: v for k, v in curves.items() if k == _ACCURACY}) if kind]
        for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
            for metric, points in kind.items():
                axes.plot(*zip(*points, strict=True), marker="." if len(points) < 60 else None, label=metric)
            axes.set(xlabel="step", title="reward" if kind is rewards else "validation accuracy")
            axes.legend(frameon=False)
        figure.suptitle(name)
        return Plot(f"{_file_name(name)}-curves", f"{name}: reward and accuracy over training", _svg(figure))


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return reward and accuracy as points of (step, value), by metric.

    Args:
        path: ``metrics.csv`` of Lightning's CSVLogger.

    Raises:
        UserError: The file is missing, or has neither of the two.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                for metric in (*_REWARDS, _ACCURACY):
                    if row.get(metric) and row.get("step"):
                        curves.setdefault(metric, []).append((int(float(row["step"])), float(row[metric])))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: there is no such file; name the metrics.csv of a CSVLogger") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not the metrics.csv of a CSVLogger ({error})") from None
    if not curves:
        raise UserError(f"{path}: there is no column {_REWARDS[0]} or {_ACCURACY} with values in it")
    return curves


def all_plots(scores: Scores, metrics: Sequence[tuple[str, Path]]) -> list[Plot]:
    """Return all plots.

    Args:
        scores: The scores.
        metrics: Names and files of the runs whose curves are drawn.
    """
    return [*category_plots(scores), *(curve_plot(name, path) for name, path in metrics)]


def _below(score: Score) -> float:
    return max(0.0, 100 * (score.accuracy - score.low)) if not math.isnan(score.low) else 0.0


def _above(score: Score) -> float:
    return max(0.0, 100 * (score.high - score.accuracy)) if not math.isnan(score.high) else 0.0


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _file_name(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in text)
