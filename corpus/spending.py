"""What each stage took, all runs and ranks together."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from callbacks.writers.record_writer import still_missing
from callbacks.writers.yields import Spending, spending
from corpus.evidence import Evidence
from records.completed import Place
from records.record_files import read_records
from records.request_records import RequestError, Usage


class _Sampled(Protocol):
    @property
    def question_id(self) -> str: ...
    @property
    def sample(self) -> int: ...


def stage_spending(runs: Path, evidence: Evidence) -> dict[str, Spending]:
    """Return what each stage that has begun took, and what it could not have.

    Args:
        runs: Where the stages write.
        evidence: What they made.

    Raises:
        RecordError: A line is malformed.
    """
    made: dict[str, Iterable[Place]] = {
        "questions": _places([evidence.proposals]),
        "prior": _made(evidence.prior),
        "teacher": _made(evidence.teacher),
        "grounding": _made(evidence.grounding),
        "verify": _made(evidence.verified),
    }
    found = {}
    for stage, places in made.items():
        usage, errors = runs / stage / "usage", runs / stage / "errors"
        if any(usage.glob("*.jsonl")):
            failed = read_records([str(errors)], RequestError) if any(errors.glob("*.jsonl")) else ()
            found[stage] = spending(read_records([str(usage)], Usage), still_missing(failed, places).values())
    return found


def _made(found: Mapping[str, Sequence[_Sampled]] | None) -> Iterable[Place]:
    return _places((found or {}).values())


def _places(groups: Iterable[Sequence[_Sampled]]) -> Iterable[Place]:
    return ((one.question_id, one.sample) for group in groups for one in group)
