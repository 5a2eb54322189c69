"""``python -m corpus``: look at a corpus, listen to it and judge it, and see how far a checker and a person agree."""

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
        UserError: Something is missing or unusable; the message says which and why.
    """
    options = parser().parse_args(arguments)
    from corpus import commands  # here, since it takes seconds that help and mistyped commands do without

    getattr(commands, options.run)(options)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m corpus", description="A training corpus: look, listen, judge.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    browse = commands.add_parser(
        "browse",
        help="a page on this machine: clips, frames, questions, traces, verdicts",
        description="Opens a page on the loopback address on which a corpus in AVQA's layout can be looked at and "
        "listened to: filters, search, each trace with the checker's verdict. With --label its traces can be accepted "
        "and rejected by key; nothing else is ever written.",
    )
    browse.add_argument(
        "folder", type=Path, help="holds <split>_qa.json, videos/ and, unless named, traces/ and verdicts/"
    )
    browse.add_argument("--split", default="train", choices=("train", "val"), help="which annotations (default: train)")
    browse.add_argument("--traces", nargs="*", default=[], help="files and folders, such as runs/teacher/traces")
    browse.add_argument("--verdicts", nargs="*", default=[], help="files and folders, such as runs/verify/verdicts")
    browse.add_argument("--label", metavar="NAME", help="judge traces; the verdicts go to LABELS/NAME.jsonl")
    browse.add_argument("--labels", type=Path, help="folder of people's verdicts (default: labels in the folder)")
    browse.add_argument("--port", type=int, default=8765, help="port on 127.0.0.1 (default: 8765)")
    browse.set_defaults(run="browse")

    agree = commands.add_parser("agreement", help="how far a checker and a person agree, with Cohen's kappa")
    agree.add_argument("--labels", nargs="+", required=True, help="a person's verdicts: files and folders")
    agree.add_argument("--verdicts", nargs="+", required=True, help="the checker's verdicts: files and folders")
    agree.set_defaults(run="agree")
    return top


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"corpus: {error}")
