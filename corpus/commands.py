"""What the commands of ``python -m corpus`` do."""

import argparse
from pathlib import Path

from corpus.clip_terms import read_terms
from corpus.datasheet import Datasheet
from corpus.training_corpus import finish as finish_corpus
from corpus.training_corpus import gather as gather_questions
from runtime.errors import UserError


def gather(options: argparse.Namespace) -> None:
    """Write what the next stage is to ask about, and print what each gate stopped."""
    datasheet = gather_questions(options.root, options.runs, read_terms(options.clips or ()))
    _show(datasheet)
    print(
        f"{options.root / 'train_qa.json'} has the {sum(one.open for one in datasheet.judged)} that no gate has stopped"
    )


def finish(options: argparse.Namespace) -> None:
    """Write the corpus with its datasheet, and print what each gate stopped."""
    leakage = said_of_audit(options.audit)
    datasheet = finish_corpus(options.root, options.runs, read_terms(options.clips or ()), options.held_out, leakage)
    _show(datasheet)
    print(f"{len(datasheet.kept)} questions, their traces, verdicts and {options.root / 'datasheet.md'} were written")


def said_of_audit(path: Path | None) -> str:
    """Return what an audit found, in a sentence; empty where there was none.

    Args:
        path: What ``python -m evaluation audit --output`` wrote: a line for each shared clip.

    Raises:
        UserError: It cannot be read.
    """
    if path is None:
        return ""
    try:
        shared = sum(1 for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): --audit takes what the audit wrote") from None
    return f"The audit of the clips' sound against the benchmarks names {shared} shared clips ({path.name})."


def _show(datasheet: Datasheet) -> None:
    print(f"{len(datasheet.judged)} questions were proposed")
    print("\n".join(datasheet.gates()))
