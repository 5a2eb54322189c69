"""What the stages have found out about proposed questions so far."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from records.proposed_question import ProposedQuestion
from records.record_files import read_records
from records.records import RecordError, Trace, Verdict

R = TypeVar("R", Trace, Verdict)

PROPOSALS, PRIOR, TEACHER, GROUNDING, VERIFIED = (
    "questions/proposals",
    "prior/traces",
    "teacher/traces",
    "grounding/verdicts",
    "verify/verdicts",
)
"""Where the stages write below the folder of runs, in their order."""


@dataclass(frozen=True)
class Evidence:
    """Records of all stages; None for a stage that has not begun.

    Attributes:
        proposals: What was written, by clip and sample.
        prior: Answers without the clip, by question.
        teacher: The teacher's traces, by question.
        grounding: The checker's verdicts on the answers, by question.
        verified: The checker's verdicts on the traces, by question.
    """

    proposals: Sequence[ProposedQuestion]
    prior: Mapping[str, Sequence[Trace]] | None = None
    teacher: Mapping[str, Sequence[Trace]] | None = None
    grounding: Mapping[str, Sequence[Verdict]] | None = None
    verified: Mapping[str, Sequence[Verdict]] | None = field(default=None)

    @property
    def missing(self) -> list[str]:
        """Stages that have not begun."""
        stages = {PRIOR: self.prior, TEACHER: self.teacher, GROUNDING: self.grounding, VERIFIED: self.verified}
        return [name for name, found in stages.items() if found is None]


def read_evidence(runs: Path) -> Evidence:
    """Read what the stages have written below a folder.

    Args:
        runs: The folder, which holds ``questions``, ``prior``, ``teacher``, ``grounding`` and ``verify``.

    Raises:
        RecordError: No question was proposed yet, or a line is malformed.
    """
    if not _written(runs / PROPOSALS):
        raise RecordError(
            f"{runs / PROPOSALS}: no question was written yet; `train.py predict --config questions.yaml` does it"
        )
    proposals = {(one.question_id, one.sample): one for one in read_records([str(runs / PROPOSALS)], ProposedQuestion)}
    return Evidence(
        [proposals[place] for place in sorted(proposals)],
        _of_questions(runs / PRIOR, Trace),
        _of_questions(runs / TEACHER, Trace),
        _of_questions(runs / GROUNDING, Verdict),
        _of_questions(runs / VERIFIED, Verdict),
    )


def _written(folder: Path) -> bool:
    return any(folder.glob("*.jsonl"))


def _of_questions(folder: Path, kind: type[R]) -> Mapping[str, Sequence[R]] | None:
    """Return the records of a folder by their question, also those of questions that have changed since."""
    if not _written(folder):
        return None
    found: dict[str, list[R]] = defaultdict(list)
    for record in read_records([str(folder)], kind):
        found[record.question_id].append(record)
    return found
