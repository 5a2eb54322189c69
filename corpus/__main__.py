"""``python -m corpus``: from videos to a training corpus."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
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
    from corpus import commands  # here, since it takes seconds that help and mistyped commands do without

    getattr(commands, options.run)(options)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m corpus", description="From videos to a training corpus.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
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
    return top


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
