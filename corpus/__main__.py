"""``python -m corpus``: from videos to a training corpus that people can look at."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

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
    top = argparse.ArgumentParser(prog="python -m corpus", description="From videos to a training corpus.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _clips(commands)
    _gather_and_finish(commands)
    _browse(commands)
    _agreement(commands)
    return top


def _clips(commands: Any) -> None:
    text = "Make clips with sound of videos, each once and none of a benchmark."
    clips = commands.add_parser("clips", help=text, description=text)
    clips.set_defaults(run="clips")
    clips.add_argument("--root", type=Path, required=True, help="folder of the videos, which no path leads out of")
    clips.add_argument("--output", type=Path, required=True, help="folder of clips, left_out and report.json")
    clips.add_argument("--manifest", type=Path, help="JSONL or CSV: path, and start, end, license, source where known")
    clips.add_argument("--shards", metavar="PATTERN", help="tar archives below --root, such as '*.tar'")
    clips.add_argument("--follow-links", action="store_true", help="accept links that lead out of --root")
    clips.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="BENCHMARK",
        help="whose clips are kept out: avqa:val, mmau, music_avqa, or a folder of clips; may be repeated",
    )
    root = os.environ.get("SIGHTSOUND_DATA") or "data"
    clips.add_argument("--data", type=Path, default=Path(root), help="folder of the benchmarks (%(default)s)")
    clips.add_argument("--processes", type=int, default=1, help="processes on this machine (%(default)s)")
    clips.add_argument("--rank", type=int, default=0, help="which of the machines this is, from 0 (%(default)s)")
    clips.add_argument("--ranks", type=int, default=1, help="how many machines there are (%(default)s)")
    from corpus.clips.settings import ClipSettings

    described = attribute_texts(ClipSettings.__doc__ or "")
    for field in fields(ClipSettings):
        name = f"--{field.name.replace('_', '-')}"
        kind = type(field.default)
        clips.add_argument(name, type=kind, default=field.default, help=f"{described[field.name]} (%(default)s)")


def _gather_and_finish(commands: Any) -> None:
    def command(name: str, run: str, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
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


def _browse(commands: Any) -> None:
    browse = commands.add_parser(
        "browse",
        help="A page on this machine: clips, frames, questions, traces, verdicts.",
        description="Opens a page on the loopback address on which a corpus in AVQA's layout can be looked at and "
        "listened to: filters, search, each trace with the checker's verdict. With --label its traces can be accepted "
        "and rejected by key; nothing else is ever written.",
    )
    browse.set_defaults(run="browse")
    browse.add_argument(
        "folder", type=Path, help="holds <split>_qa.json, videos/ and, unless named, traces/ and verdicts/"
    )
    browse.add_argument("--split", default="train", choices=("train", "val"), help="which annotations (%(default)s)")
    browse.add_argument("--traces", nargs="*", default=[], help="files and folders, such as runs/teacher/traces")
    browse.add_argument("--verdicts", nargs="*", default=[], help="files and folders, such as runs/verify/verdicts")
    browse.add_argument("--clips", nargs="*", default=[], help="files and folders of clips, as `clips` writes them")
    browse.add_argument("--clips-root", type=Path, help="folder that these clips' paths are relative to (the folder)")
    browse.add_argument("--label", metavar="NAME", help="judge traces; the verdicts go to LABELS/NAME.jsonl")
    browse.add_argument("--labels", type=Path, help="folder of people's verdicts (labels in the folder)")
    browse.add_argument("--port", type=int, default=8765, help="port on 127.0.0.1 (%(default)s)")


def _agreement(commands: Any) -> None:
    text = "How far a checker and a person agree, with Cohen's kappa."
    agree = commands.add_parser("agreement", help=text, description=text)
    agree.set_defaults(run="agree")
    agree.add_argument("--labels", nargs="+", required=True, help="a person's verdicts: files and folders")
    agree.add_argument("--verdicts", nargs="+", required=True, help="the checker's verdicts: files and folders")


def attribute_texts(docstring: str) -> dict[str, str]:
    """Return the text of each attribute of a dataclass's docstring, in lower case and without a stop."""
    texts: dict[str, str] = {}
    name = ""
    for line in docstring.partition("Attributes:")[2].splitlines():
        head, colon, rest = line.strip().partition(": ")
        if colon and head.isidentifier():
            name, texts[head] = head, rest
        elif name and line.strip():
            texts[name] += f" {line.strip()}"
    return {name: text[0].lower() + text[1:].rstrip(".").replace("%", "%%") for name, text in texts.items()}


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"corpus: {error}")
