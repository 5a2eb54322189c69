"""From one stage of a corpus to the next, and from the last one to the corpus, with what is said of it."""

from collections.abc import Sequence
from pathlib import Path

from corpus.clip_terms import read_terms
from corpus.datasheet import Datasheet
from corpus.training_corpus import finished_corpus, gathered_questions
from runtime.errors import UserError


def gather(root: Path, runs: Path, clips: Sequence[str]) -> None:
    """Write what the next stage is to ask about, and print what each gate stopped.

    Args:
        root: Folder of the clips.
        runs: Where the stages write.
        clips: Files and folders that say under which terms clips may be used.

    Raises:
        UserError: As :func:`.training_corpus.gathered_questions` does.
    """
    datasheet = gathered_questions(root, runs, read_terms(clips))
    _show(datasheet)
    left = sum(one.open for one in datasheet.judged)
    print(f"{root / 'train_qa.json'} has the {left} that no gate has stopped")


def finish(root: Path, runs: Path, clips: Sequence[str], held_out: float, audit: Path | None) -> None:
    """Write the corpus with its datasheet, and print what each gate stopped.

    Args:
        root: Folder of the clips.
        runs: Where the stages write.
        clips: Files and folders that say under which terms clips may be used.
        held_out: Part of the clips whose questions are for validation.
        audit: What the audit against benchmarks wrote; None where there was none.

    Raises:
        UserError: As :func:`.training_corpus.finished_corpus` does.
    """
    datasheet = finished_corpus(root, runs, read_terms(clips), held_out, said_of_audit(audit))
    _show(datasheet)
    print(f"{len(datasheet.kept)} questions, their traces, verdicts and {root / 'datasheet.md'} were written")


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
