"""``python -m evaluation``: tables, comparisons, the report, MMAU's official file, the audit, the matcher.

Reads what ``callbacks.PredictionWriter`` writes; needs no model and no GPU.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        arguments: The command line; that of the process when None.

    Raises:
        UserError: A file is unusable; the message says which and why.
    """
    options = parser().parse_args(arguments)
    from evaluation import commands  # here, since it takes seconds that help and mistyped commands do without

    getattr(commands, options.run)(options)


def at_least_one(text: str) -> int:
    """Return a number of the command line that counts something.

    Raises:
        argparse.ArgumentTypeError: It is none, or below 1.
    """
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number of 1 or more is needed, found {text!r}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m evaluation", description="Scores of predictions.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    root = os.environ.get("SIGHTSOUND_DATA") or "data"

    def command(name: str, run: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return made

    def with_folder(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
        made.add_argument("--data", type=Path, default=Path(root), help="folder of the benchmarks (%(default)s)")
        return made

    def with_data(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
        with_folder(made).add_argument(
            "--annotations",
            type=Path,
            metavar="FILE",
            help="MMAU's annotation file, where it is not mmau/mmau-test-mini.json, with answers or without",
        )
        return made

    def with_runs(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
        made.add_argument(
            "runs",
            nargs="+",
            metavar="[NAME=]PATH[,PATH...]",
            help="a run: files of predictions, or folders with files that end in predictions.jsonl; a run with the "
            "name of a row in the paper's tables is shown in that row",
        )
        made.add_argument("--partial", action="store_true", help="score only the questions that have a prediction")
        made.add_argument("--paper", type=Path, help="rows and figures of the paper (evaluation/paper.yaml)")
        made.add_argument(
            "--resamples", type=at_least_one, default=1000, help="resamples of the bootstrap (%(default)s)"
        )
        return made

    with_runs(with_data(command("table", "table", "Print all tables in Markdown.")))
    page = with_runs(
        with_data(command("report", "report", "Write all tables, plots and examples as HTML and Markdown."))
    )
    page.add_argument("--output", type=Path, default=Path("runs/report"), help="folder to write to (%(default)s)")
    page.add_argument("--title", default="SightSound-R1: scores", help="the report's title (%(default)s)")
    page.add_argument(
        "--metrics", action="append", default=[], metavar="NAME=PATH", help="metrics.csv of a training run"
    )
    page.add_argument("--contamination", type=Path, help="what the command audit wrote with --output")
    page.add_argument("--examples", type=int, default=20, help="examples of each run on each benchmark (%(default)s)")
    page.add_argument("--no-audio", action="store_true", help="leave the clips out, which makes the page small")
    two = with_data(command("compare", "compare", "Test whether one run is better than another on the same questions."))
    two.add_argument("first", type=Path, help="predictions of the first run")
    two.add_argument("second", type=Path, help="predictions of the second run")
    out = with_data(command("official", "official", "Write predictions.json for MMAU's official evaluation.py."))
    out.add_argument("predictions", type=Path, help="predictions on MMAU's test-mini, or on what --annotations names")
    out.add_argument("output", type=Path, help="the file to write")
    leaks = with_folder(command("audit", "audit", "List the clips that a training set and benchmarks share."))
    sets = "avqa:train, avqa:val, mmau, music_avqa, or a folder of clips"
    leaks.add_argument("--train", default="avqa:train", help=f"the training set: {sets} (%(default)s)")
    leaks.add_argument(
        "--benchmark", action="append", help=f"a benchmark: {sets}; may be repeated (all that are there)"
    )
    leaks.add_argument("--output", type=Path, help="also write the shared clips as JSON lines")
    leaks.add_argument("--threads", type=at_least_one, default=2, help="clips that are decoded at once (%(default)s)")
    with_data(command("defects", "list_defects", "List the rows of MMAU that its official rule judges wrongly."))
    readings = command("matcher", "matcher", "Print precision and recall of the reader of answers on labelled ones.")
    readings.add_argument(
        "answers",
        type=Path,
        nargs="?",
        help="answers that you have labelled, a JSON object a line (those of tests/answers/labelled_answers.jsonl)",
    )
    readings.add_argument("--misread", action="store_true", help="also print each answer that is read otherwise")
    return top


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"evaluation: {error}")
