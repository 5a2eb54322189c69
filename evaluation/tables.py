"""The tables: the paper's two beside ours, probes, orders of options, and what was wrong with the predictions."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evaluation.accuracy import ALL_QUESTIONS, AVERAGE, OFFICIAL, BenchmarkScore, Score, compare_answers
from evaluation.benchmarks import BENCHMARKS
from evaluation.intervals import Comparison
from runtime.errors import UserError

PAPER = Path(__file__).parent / "paper.yaml"
DASH = "–"
NO_ANSWERS = "no answers"
"""Stands where the benchmark's file does not tell the right answers."""

Scores = Mapping[str, Mapping[str, BenchmarkScore]]
"""Scores of each run, by name, on each benchmark."""


@dataclass(frozen=True)
class Table:
    """Text in rows and columns.

    Attributes:
        title: What it shows.
        columns: The columns' titles.
        rows: The rows; the first cell is the row's title.
        note: What the reader must know; may be empty.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [list(self.columns), ["---", *["---:"] * (len(self.columns) - 1)], *map(list, self.rows)]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"### {self.title}\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")


def read_paper(path: Path = PAPER) -> dict[str, dict[str, Any]]:
    """Read the rows of the paper's tables and the paper's figures.

    Args:
        path: A YAML file such as ``evaluation/paper.yaml``.

    Raises:
        UserError: The file is missing or is not such a file; the message names what is wrong.
    """
    try:
        tables = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: the file with the paper's figures is missing") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    for key, table in (tables if isinstance(tables, dict) else {"": None}).items():
        if not isinstance(table, dict) or not {"title", "benchmarks", "rows"} <= table.keys():
            raise UserError(
                f"{path}: {key or 'the file'} must have title, benchmarks and rows, as evaluation/paper.yaml has"
            )
        for row in table["rows"]:
            if not isinstance(row, dict) or not {"name", "title"} <= row.keys():
                raise UserError(f"{path}: {key}: each row must have a name and a title, found {row!r}")
            for benchmark, figures in (row.get("figures") or {}).items():
                if benchmark not in BENCHMARKS:
                    raise UserError(f"{path}: {key}: row {row['name']}: there is no benchmark {benchmark!r}")
                for column in set(figures) - set(_columns(benchmark)):
                    raise UserError(f"{path}: {key}: row {row['name']}: {benchmark} has no column {column!r}")
    return dict(tables)


def paper_tables(scores: Scores, paper: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Return the paper's tables with our scores beside the paper's figures, then runs that are none of its rows.

    A table of which no row has a run is left out.
    """
    tables = []
    for table in paper.values():
        if not any(row["name"] in scores for row in table["rows"]):
            continue
        columns = [(name, column) for name in table["benchmarks"] for column in _columns(name)]
        rows = []
        for row in table["rows"]:
            ours, figures = scores.get(row["name"], {}), row.get("figures") or {}
            cells = [_beside(figures.get(name, {}).get(column), _found(ours, name, column)) for name, column in columns]
            rows.append((str(row["title"]), *cells))
        known = {row["name"] for row in table["rows"]}
        for run, ours in scores.items():
            if run not in known and any(name in ours for name in table["benchmarks"]):
                rows.append((run, *(_beside(None, _found(ours, name, column)) for name, column in columns)))
        titles = tuple(f"{BENCHMARKS[name].title} {column}" for name, column in columns)
        note = "Accuracy in %: the paper's figure / ours [95% interval]; a dash where there is none."
        tables.append(Table(str(table["title"]), ("method", *titles), tuple(rows), note))
    return tables


def score_tables(scores: Scores) -> list[Table]:
    """Return for each benchmark a table of all that was scored: each category, official rule, all questions."""
    tables = []
    for benchmark, about in BENCHMARKS.items():
        runs = {run: ours[benchmark] for run, ours in scores.items() if benchmark in ours}
        if not runs:
            continue
        names = list(dict.fromkeys(name for score in runs.values() for name in score.scores))
        last = [AVERAGE, OFFICIAL, ALL_QUESTIONS]
        names.sort(key=lambda name: last.index(name) if name in last else -1)
        rows = []
        for run, score in runs.items():
            cells = [score_text(score.scores.get(name)) for name in names]
            asked = score.average.questions
            rows.append((run, *cells, str(asked), str(score.checked.unanswerable)))
        note = "The average is over the questions that are not purely visual." if benchmark == "music_avqa" else ""
        if benchmark == "mmau":
            note = "The official rule compares words; letters were mapped to option texts first."
        columns = ("run", *names, "questions", "unparseable answers")
        tables.append(Table(f"{about.title}: accuracy in % [95% interval]", columns, tuple(rows), note))
    return tables


def probe_table(scores: Scores) -> Table | None:
    """Return what silence, another clip's audio and noise cost; None where nothing was probed."""
    names = sorted({probe for ours in scores.values() for score in ours.values() for probe in score.probes})
    rows = []
    for run, ours in scores.items():
        for benchmark, score in ours.items():
            if score.probes:
                cells = [_probe_text(score, probe) for probe in names]
                rows.append((f"{run}, {BENCHMARKS[benchmark].title}", score_text(score.average), *cells))
    note = "Accuracy in %, its change in points [95% interval of the change], McNemar's p against the true audio."
    return Table("Can it hear?", ("run", "true audio", *names), tuple(rows), note) if rows else None


def comparison_table(scores: Scores) -> Table | None:
    """Return how each run compares with the first and with the one before it, on the same questions.

    None where there are no two runs, or no right answers to compare by.
    """
    rows = []
    for benchmark, about in BENCHMARKS.items():
        runs = [run for run, ours in scores.items() if benchmark in ours]
        pairs = {(first, run): None for place, run in enumerate(runs[1:]) for first in (runs[0], runs[place])}
        for first, second in pairs:
            found = compare_answers(scores[first][benchmark].checked, scores[second][benchmark].checked)
            if not found.questions:
                continue
            rows.append(
                (
                    f"{about.title}: {second} against {first}",
                    points(found),
                    str(found.only_second),
                    str(found.only_first),
                    p_text(found.mcnemar),
                    p_text(found.bootstrap),
                )
            )
    columns = ("runs", "gain in points", "only the second right", "only the first right", "McNemar p", "bootstrap p")
    return Table("Runs against each other", columns, tuple(rows), "p-values are two-sided.") if rows else None


def order_table(scores: Scores) -> Table | None:
    """Return how much the order of the options matters; None where it was not varied."""
    rows = []
    for run, ours in scores.items():
        for benchmark, score in ours.items():
            if (orders := score.orders) is not None:
                low, high = min(orders.accuracies, default=math.nan), max(orders.accuracies, default=math.nan)
                rows.append(
                    (
                        f"{run}, {BENCHMARKS[benchmark].title}",
                        str(len(orders.accuracies) or DASH),
                        percent(orders.mean),
                        percent(orders.spread),
                        f"{percent(low)} to {percent(high)}",
                        percent(orders.agreement),
                    )
                )
    columns = ("run", "orders", "mean", "standard deviation", "range", "same option under all orders")
    note = "Accuracy in %; the file's own order is one of the orders."
    return Table("Order of the options", columns, tuple(rows), note) if rows else None


def contamination_table(path: Path) -> Table:
    """Return the clips that the audit found in training set and benchmark.

    Args:
        path: What ``python -m evaluation audit --output`` wrote.

    Raises:
        UserError: The file is missing or is something else.
    """
    rows = []
    try:
        for line in path.read_text(encoding="utf-8").split("\n"):  # names may have other ends of lines
            if not line:
                continue
            found = json.loads(line)
            asked = str(len(found["questions"]))
            rows.append((f"{found['set']}: {found['benchmark']}", found["train"], found["how"], found["why"], asked))
    except OSError as error:
        raise UserError(
            f"{path}: {(error.strerror or 'not readable').lower()}; write it with the command audit"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: line {len(rows) + 1} is not of the command audit") from None
    columns = ("benchmark's clip", "training set's clip", "what", "why", "questions")
    return Table("Clips in training set and benchmark", columns, tuple(rows), "" if rows else "None was found.")


def problem_table(scores: Scores, partial: bool = False) -> Table | None:
    """Return what was wrong with the predictions; None where nothing was."""
    rows = []
    for run, ours in scores.items():
        for benchmark, score in ours.items():
            for kind, count in score.checked.counts().items():
                example = next(problem for problem in score.checked.problems if problem.kind == kind)
                rows.append((f"{run}, {BENCHMARKS[benchmark].title}", kind, str(count), example.sentence))
    if not rows:
        return None
    note = "Questions without a prediction are " + ("not scored." if partial else "counted as wrong.")
    return Table("What was wrong with the predictions", ("run", "problem", "count", "the first"), tuple(rows), note)


def all_tables(scores: Scores, paper: Mapping[str, Mapping[str, Any]], partial: bool = False) -> list[Table]:
    """Return every table that has something to show."""
    more = [comparison_table(scores), probe_table(scores), order_table(scores), problem_table(scores, partial)]
    return [*paper_tables(scores, paper), *score_tables(scores), *(table for table in more if table is not None)]


def percent(share: float) -> str:
    """Return a share in percent with one decimal, or a dash."""
    return DASH if math.isnan(share) else f"{100 * share:.1f}"


def score_text(score: Score | None) -> str:
    """Return a score with its interval, or a dash, or that there are no right answers to score by."""
    if score is None or not score.questions:
        return NO_ANSWERS if score is not None and score.unknown else DASH
    return f"{percent(score.accuracy)} [{percent(score.low)}, {percent(score.high)}]"


def _probe_text(score: BenchmarkScore, probe: str) -> str:
    if probe not in score.probes:
        return DASH
    probed, change = score.probes[probe]
    if not change.questions:
        return score_text(probed)
    return f"{percent(probed.accuracy)}, {points(change)}, p {p_text(change.mcnemar)}"


def points(change: Comparison) -> str:
    """Return a difference in points with its interval."""
    return f"{100 * change.difference:+.1f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"


def p_text(p: float) -> str:
    """Return a p-value as it is usually written."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _columns(benchmark: str) -> Sequence[str]:
    return (*BENCHMARKS[benchmark].categories, AVERAGE)


def _found(ours: Mapping[str, BenchmarkScore], benchmark: str, column: str) -> Score | None:
    return ours[benchmark].scores.get(column) if benchmark in ours else None


def _beside(figure: float | None, score: Score | None) -> str:
    if figure is None and score is None:
        return DASH
    return f"{DASH if figure is None else f'{figure:.1f}'} / {score_text(score)}"
