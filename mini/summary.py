"""What a run of the pipeline has found: accuracies, rewards, whether the student hears."""

import csv
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from rich.table import Table

from datamodules.avqa import AVQADataModule
from datamodules.mmau import MMAUDataModule
from datamodules.music_avqa import MusicAVQADataModule
from mini.evaluation import BENCHMARKS, STUDENTS
from mini.world.sounds import INSTRUMENTS
from runtime.errors import UserError


def chance(corpus: Path) -> dict[str, float]:
    """Return the accuracy of guessing on each benchmark."""
    modules = {
        "avqa": AVQADataModule(str(corpus / "avqa"), validate_media=False),
        "mmau": MMAUDataModule(str(corpus / "mmau"), validate_media=False),
        "music_avqa": MusicAVQADataModule(
            str(corpus / "music_avqa"), instruments=list(INSTRUMENTS), validate_media=False
        ),
    }
    return {name: fmean(1 / len(q.options) for q in data.questions("test")) for name, data in modules.items()}


def merge_metrics(run: Path) -> Path:
    """Write the metrics of a training run, in however many sittings, into one CSV file.

    A sitting repeats the steps since the checkpoint that it began from; what the last one measured counts. One that
    ended before its first step leaves a folder without metrics.

    Args:
        run: The run's folder.

    Returns:
        The file, with one row for each step.

    Raises:
        UserError: Nothing was measured.
    """
    rows: dict[int, dict[str, str]] = {}
    for folder in sorted((run / "metrics").glob("version_*"), key=lambda path: int(path.name.rpartition("_")[2])):
        if (folder / "metrics.csv").is_file():
            with open(folder / "metrics.csv", newline="", encoding="utf-8") as lines:
                for row in csv.DictReader(lines):
                    rows.setdefault(int(row["step"]), {}).update({name: value for name, value in row.items() if value})
    if not rows:
        raise UserError(f"{run / 'metrics'} holds no metrics: the run has not taken a step yet")
    merged = run / "metrics" / "metrics.csv"
    with open(merged, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(
            file, lineterminator="\n", fieldnames=sorted({name for row in rows.values() for name in row})
        )
        writer.writeheader()
        writer.writerows(rows[step] for step in sorted(rows))
    return merged


def rewards(metrics: Path, steps: int = 5) -> tuple[float, float]:
    """Return the mean reward of the first and of the last steps of a GRPO run.

    Args:
        metrics: Its metrics, see :func:`merge_metrics`.
        steps: How many steps at each end.
    """
    with open(metrics, newline="", encoding="utf-8") as rows:
        found = [float(row["train/reward"]) for row in csv.DictReader(rows) if row.get("train/reward")]
    return fmean(found[:steps]), fmean(found[-steps:])


def accuracy_table(accuracies: Mapping[str, Mapping[str, float]], guessing: Mapping[str, float]) -> Table:
    """Return the table of all students.

    Args:
        accuracies: ``{student: {benchmark: accuracy}}``.
        guessing: Accuracy of guessing on each benchmark.
    """
    table = Table(title="Accuracy in % on the synthetic world")
    table.add_column("student")
    for title in BENCHMARKS.values():
        table.add_column(title, justify="right")
    table.add_row("guessing", *(f"{100 * guessing[name]:.1f}" for name in BENCHMARKS))
    for student, row in accuracies.items():
        table.add_row(STUDENTS[student], *(f"{100 * row[name]:.1f}" for name in BENCHMARKS))
    return table
