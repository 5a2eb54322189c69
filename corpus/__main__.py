"""``python -m corpus``: from questions that a model wrote to a corpus that can be trained on."""

import argparse
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
    from corpus import commands  # here, since it takes seconds that help does without

    getattr(commands, options.run)(options)


def part(text: str) -> float:
    """Return a number of the command line that is a part of something.

    Raises:
        argparse.ArgumentTypeError: It is none, or not between 0 and 1.
    """
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"a number from 0 to below 1 is needed, found {text!r}")
    return number


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m corpus", description="A training corpus of one's own videos.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        made.add_argument("root", type=Path, help="folder of the clips; gets the annotations in AVQA's format")
        made.add_argument("--runs", type=Path, default=Path("runs"), help="where the stages write (%(default)s)")
        made.add_argument(
            "--clips",
            action="append",
            metavar="PATH",
            help="clips.jsonl or a folder of such files: sources and licences",
        )
        return made

    command("gather", "gather", "Write the questions that no gate has stopped yet, for the next stage to ask about.")
    last = command("finish", "finish", "Write the corpus: questions, traces, verdicts, provenance and datasheet.md.")
    last.add_argument("--audit", type=Path, help="what `python -m evaluation audit --output` wrote about the clips")
    last.add_argument(
        "--held-out",
        type=part,
        default=0.05,
        metavar="PART",
        help="part of the clips whose questions are for validation (%(default)s)",
    )
    return top


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"corpus: {error}")
