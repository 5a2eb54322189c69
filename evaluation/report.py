"""The report: one HTML page that needs nothing else, and the same tables and plots in Markdown."""

import base64
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from evaluation.benchmarks import BENCHMARKS
from evaluation.examples import Example, make_example, pick
from evaluation.plots import Plot
from evaluation.tables import Scores, Table
from runtime.errors import UserError

TEMPLATES = Path(__file__).parent


def pick_examples(scores: Scores, data: Path, count: int, embed_audio: bool = True) -> list[Example]:
    """Return examples of each run on each benchmark.

    Args:
        scores: The scores.
        data: The folder that holds the benchmarks' folders, with the clips.
        count: How many of each run on each benchmark.
        embed_audio: Put the clips into the examples.
    """
    return [
        make_example(run, BENCHMARKS[benchmark].title, answer, data / benchmark, embed_audio)
        for run, ours in scores.items()
        for benchmark, score in ours.items()
        for answer in pick(score.checked.answers, count)
    ]


def html(title: str, tables: Sequence[Table], plots: Sequence[Plot], examples: Sequence[Example]) -> str:
    """Return the page. Whatever a model or a data set says is text in it, never markup.

    Args:
        title: The page's title.
        tables: The tables.
        plots: The plots.
        examples: The examples.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["base64"] = lambda text: base64.b64encode(text.encode()).decode()
    page = environment.get_template("report.html.j2")
    return page.render(title=title, tables=tables, plots=plots, examples=examples)


def markdown(title: str, tables: Sequence[Table], plots: Sequence[Plot]) -> str:
    """Return the tables, and the plots as links to ``plots/<name>.svg``.

    Args:
        title: The heading.
        tables: The tables.
        plots: The plots.
    """
    drawn = [f"![{plot.title}](plots/{plot.name}.svg)\n" for plot in plots]
    return "\n".join([f"# {title}\n", "## Tables\n", *(table.markdown() for table in tables), "## Plots\n", *drawn])


def numbers(scores: Scores) -> dict[str, Any]:
    """Return all scores and counts, for programs."""
    return {
        run: {
            benchmark: {
                "scores": {
                    name: {**dataclasses.asdict(value), "accuracy": value.accuracy}
                    for name, value in score.scores.items()
                    if value.questions
                },
                "unparseable": score.checked.unanswerable,
                "problems": score.checked.counts(),
                "probes": {
                    probe: {
                        **dataclasses.asdict(value),
                        "accuracy": value.accuracy,
                        "change": dataclasses.asdict(change),
                    }
                    for probe, (value, change) in score.probes.items()
                },
                "orders": score.orders and {**dataclasses.asdict(score.orders), "spread": score.orders.spread},
            }
            for benchmark, score in ours.items()
        }
        for run, ours in scores.items()
    }


def write_report(
    directory: Path,
    title: str,
    scores: Scores,
    tables: Sequence[Table],
    plots: Sequence[Plot],
    examples: Sequence[Example],
) -> None:
    """Write ``report.html``, ``report.md``, ``scores.json`` and ``plots``.

    Args:
        directory: Where to.
        title: The title.
        scores: The scores.
        tables: The tables.
        plots: The plots.
        examples: The examples, which only the page has.

    Raises:
        UserError: The folder cannot be written.
    """
    try:
        (directory / "plots").mkdir(parents=True, exist_ok=True)
        for plot in plots:
            (directory / "plots" / f"{plot.name}.svg").write_text(plot.svg, encoding="utf-8")
        (directory / "report.html").write_text(html(title, tables, plots, examples), encoding="utf-8")
        (directory / "scores.json").write_text(json.dumps(numbers(scores), indent=2) + "\n", encoding="utf-8")
        (directory / "report.md").write_text(markdown(title, tables, plots), encoding="utf-8")
    except OSError as error:
        raise UserError(f"the report cannot be written to {directory} ({error.strerror}): set --output") from None
