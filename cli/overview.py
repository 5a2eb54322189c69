"""What ``train.py`` can do, said before anything is imported that takes seconds."""

import argparse
import sys
from collections.abc import Sequence

SUBCOMMANDS = {
    "fit": "train: sft.yaml, grpo.yaml, verifier.yaml",
    "validate": "the validation of fit alone",
    "test": "answer a benchmark: benchmark/avqa.yaml, benchmark/mmau.yaml, benchmark/music_avqa.yaml",
    "predict": "write records: teacher.yaml (traces), verify.yaml, verify_trained.yaml (verdicts), silent_answers.yaml",
    "plan": "say what a fit needs of a machine, memory, disk and time, before it is begun",
    "export": "write the weights of a fit's checkpoint as a Hugging Face directory",
}
"""What each is for."""

_EPILOG = """\
files are looked up in configs/; a further --config goes over the one before it.
python train.py SUBCOMMAND --help           all options of a subcommand
python train.py fit --model.help CLASS      all options of a class
python train.py fit --config ... --print_config
--verbose shows what libraries say, too; --debug the traceback of errors."""


def show_overview(args: Sequence[str]) -> None:
    """Answer a command line that asks what there is, or names no subcommand that there is.

    Args:
        args: Arguments of ``train.py``.

    Raises:
        SystemExit: After the answer.
    """
    if args and args[0] in ("-h", "--help"):
        overview_parser().print_help()
        raise SystemExit(0)
    if not args or not (args[0].startswith("-") or args[0] in SUBCOMMANDS):
        found = f"{args[0]!r} is no subcommand" if args else "a subcommand is missing"
        print(f"train.py: {found}: {', '.join(SUBCOMMANDS)}, see train.py --help", file=sys.stderr, flush=True)
        raise SystemExit(2)


def overview_parser() -> argparse.ArgumentParser:
    """Return a parser for its help alone."""
    parser = argparse.ArgumentParser(
        "python train.py",
        usage=f"python train.py {{{','.join(SUBCOMMANDS)}}} --config STAGE.yaml [--config OVERLAY.yaml] [--OPTION X]",
        description="A stage of SightSound-R1.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    named = parser.add_subparsers(title="subcommands", metavar="")
    for name, text in SUBCOMMANDS.items():
        named.add_parser(name, help=text, add_help=False)
    return parser
