"""The corpus on disk: AVQA's files, traces, verdicts, what became of each proposal, and the datasheet."""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from corpus.avqa_rows import write_rows
from corpus.clip_terms import ClipTerms
from corpus.datasheet import Datasheet
from corpus.evidence import Evidence, read_evidence
from corpus.judged_questions import Judged, current, judged_questions
from corpus.spending import stage_spending
from records.records import write_jsonl
from runtime.errors import UserError

OUTCOMES = "outcomes.jsonl"
"""What became of each proposal; by it a folder is known whose annotations may be written anew."""

TRACES, VERDICTS = "traces/corpus.jsonl", "verdicts/corpus.jsonl"
"""The teacher's traces of the training questions, and the checker's verdicts on them."""


def gathered_questions(root: Path, runs: Path, terms: Mapping[str, ClipTerms]) -> Datasheet:
    """Write the questions that no gate has stopped yet into ``root/train_qa.json``, for the next stage to ask about.

    Args:
        root: Folder of the clips, which becomes AVQA's.
        runs: Where the stages write.
        terms: Source and licence of clips.

    Raises:
        UserError: The folder has annotations of somebody else, no question is left, or something cannot be written.
    """
    _refuse_foreign(root)
    evidence, judged = _judged(runs, terms)
    if not any(one.open for one in judged):
        raise UserError(f"none of the {len(judged)} questions in {runs} passes the gates: see outcomes.jsonl")
    write_jsonl(root / OUTCOMES, [one.outcome for one in judged])
    write_rows(root / "train_qa.json", (one for one in judged if one.open))
    return _datasheet(root, runs, evidence, judged)


def finished_corpus(
    root: Path, runs: Path, terms: Mapping[str, ClipTerms], held_out: float, leakage: str = ""
) -> Datasheet:
    """Write the corpus: questions that passed all gates, their traces and verdicts, and the datasheet.

    Args:
        root: Folder of the clips, which becomes AVQA's.
        runs: Where the stages write.
        terms: Source and licence of clips.
        held_out: Part of the clips whose questions are for validation.
        leakage: What an audit found of benchmarks' clips, in a sentence.

    Raises:
        UserError: A stage is missing, nothing is left, or something cannot be written.
    """
    _refuse_foreign(root)
    evidence, judged = _judged(runs, terms)
    if evidence.missing:
        raise UserError(
            f"{', '.join(evidence.missing)}: not in {runs} yet; let these stages run, and `python -m corpus gather` "
            "between them"
        )
    for name in (TRACES, VERDICTS):
        if others := [path for path in (root / name).parent.glob("*.jsonl") if path != root / name]:
            raise UserError(f"{others[0]} is not of this corpus and would be read with it: move it away")
    validation = held_out_clips([one.outcome.clip for one in judged if one.passed], held_out)
    judged = [_in_split(one, "val" if one.outcome.clip in validation else "train") for one in judged]
    train = [one for one in judged if one.outcome.split == "train"]
    if not train:
        raise UserError(f"none of the {len(judged)} questions in {runs} passed all gates: {root} is left as it is")
    write_jsonl(root / OUTCOMES, [one.outcome for one in judged])
    write_rows(root / "train_qa.json", train)
    write_rows(root / "val_qa.json", (one for one in judged if one.outcome.split == "val"))
    questions = [one.question for one in train if one.question is not None]
    write_jsonl(root / TRACES, [trace for one in questions for trace in current(one, evidence.teacher)])
    write_jsonl(root / VERDICTS, [verdict for one in questions for verdict in current(one, evidence.verified)])
    datasheet = dataclasses.replace(_datasheet(root, runs, evidence, judged), leakage=leakage)
    datasheet.write(root / "datasheet.md")
    return datasheet


def held_out_clips(clips: Sequence[str], part: float) -> set[str]:
    """Return the clips whose questions are for validation: at least one, drawn by their names, where a part is wanted.

    Args:
        clips: All clips, repeated or not.
        part: Which part of them.
    """
    drawn = sorted(set(clips), key=lambda clip: hashlib.sha256(clip.encode()).digest())
    return set(drawn[: math.ceil(part * len(drawn))])


def _judged(runs: Path, terms: Mapping[str, ClipTerms]) -> tuple[Evidence, list[Judged]]:
    evidence = read_evidence(runs)
    nothing = ClipTerms()
    judged = []
    for one in judged_questions(evidence):
        about = terms.get(one.outcome.clip, nothing)
        outcome = dataclasses.replace(one.outcome, source=about.source, license=about.license)
        judged.append(Judged(one.question, outcome))
    return evidence, judged


def _in_split(one: Judged, split: str) -> Judged:
    return Judged(one.question, dataclasses.replace(one.outcome, split=split)) if one.passed else one


def _datasheet(root: Path, runs: Path, evidence: Evidence, judged: Sequence[Judged]) -> Datasheet:
    return Datasheet(root.name, evidence, judged, stage_spending(runs, evidence))


def _refuse_foreign(root: Path) -> None:
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder; it should hold the clips, and gets the annotations")
    if (root / "train_qa.json").exists() and not (root / OUTCOMES).exists():
        raise UserError(
            f"{root / 'train_qa.json'} was written by somebody else, since {OUTCOMES} is not beside it: move it "
            "away, or name another folder"
        )
