"""Which proposed questions pass which gates, on the evidence that there is: nothing here reads or writes."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from corpus.evidence import Evidence
from corpus.gates.answer_length import answer_stands_out
from corpus.gates.distinct_options import repeated_option
from corpus.gates.given_away import answer_in_question
from corpus.gates.heard import not_heard
from corpus.gates.option_places import in_drawn_order
from corpus.gates.votes import count_votes, known_without_clip, not_unanimous
from corpus.gates.words_of_sight import word_of_sight
from datamodules.prompts.question_kinds import QUESTION_KINDS
from datamodules.reading.annotations import same_text
from records.changed_questions import without_changed
from records.proposed_question import ProposedQuestion, QuestionOutcome
from records.records import Question, Trace, Verdict

R = TypeVar("R", Trace, Verdict)

WAITING = "waiting"
"""Reason of a gate whose stage has not come to a question."""

OWN_GATES: Mapping[str, Callable[[Question], str]] = {
    "distinct options": repeated_option,
    "words of sight": word_of_sight,
    "given away": answer_in_question,
    "answer length": answer_stands_out,
}
"""Gates that look at the question alone, in their order."""

GATES = ("readable", *OWN_GATES, "repeated", "prior", "unanimity", "grounding")
"""All gates, in their order."""


@dataclass(frozen=True)
class Judged:
    """A proposed question and what became of it.

    Attributes:
        question: The question as the corpus has it; None where none could be read.
        outcome: The first gate that it did not pass, and the evidence.
    """

    question: Question | None
    outcome: QuestionOutcome

    @property
    def passed(self) -> bool:
        """True where it passed all gates."""
        return not self.outcome.gate

    @property
    def open(self) -> bool:
        """True where it passed all gates whose stages have come to it."""
        return self.passed or self.outcome.reason == WAITING


def judged_questions(evidence: Evidence) -> Iterator[Judged]:
    """Yield each proposed question with what became of it, in the order of clips and samples.

    Args:
        evidence: What the stages have written.
    """
    rounds = _most(evidence.prior), _most(evidence.teacher)
    said: set[tuple[str, str]] = set()
    for proposal in evidence.proposals:
        question = question_of(proposal)
        outcome = QuestionOutcome(
            question_id=question_id(proposal),
            clip=proposal.question_id,
            sample=proposal.sample,
            kind=proposal.kind,
            writer=proposal.model,
            prompt_version=proposal.prompt_version,
        )
        if question is None:
            yield Judged(None, dataclasses.replace(outcome, gate="readable", reason=proposal.fault))
            continue
        gate, reason = _own(question)
        if not gate:
            key = (proposal.question_id, same_text(question.text))
            gate, reason = ("repeated", "asked of this clip before") if key in said else ("", "")
            said.add(key)
        if gate:
            yield Judged(question, dataclasses.replace(outcome, gate=gate, reason=reason))
        else:
            yield Judged(question, _asked(question, outcome, evidence, *rounds))


def question_id(proposal: ProposedQuestion) -> str:
    """Return the id of a proposal's question, as AVQA's DataModule makes it of the row."""
    return f"avqa/train/{row_id(proposal.question_id, proposal.sample)}"


def row_id(clip: str, sample: int) -> str:
    """Return the id of a question's row in the annotation file."""
    return f"{clip}.{sample}"


def question_of(proposal: ProposedQuestion) -> Question | None:
    """Return the question of a proposal with its options in drawn order; None where none could be read."""
    if proposal.fault or len(proposal.options) < 2:
        return None
    kind = QUESTION_KINDS.get(proposal.kind)
    return in_drawn_order(
        Question(
            id=question_id(proposal),
            dataset="avqa",
            media=proposal.question_id,
            text=proposal.text,
            options=proposal.options,
            answer=0,
            category=proposal.kind,
            metadata={"question_relation": kind.relation if kind else "Sound"},
        )
    )


def _own(question: Question) -> tuple[str, str]:
    return next(((name, reason) for name, gate in OWN_GATES.items() if (reason := gate(question))), ("", ""))


def _asked(
    question: Question, outcome: QuestionOutcome, evidence: Evidence, prior_rounds: int, teacher_rounds: int
) -> QuestionOutcome:
    """Return what became of a question that passed what looks at it alone: the gates of models, in their order."""
    prior = count_votes(question, current(question, evidence.prior))
    outcome = dataclasses.replace(outcome, prior_right=prior.right if prior.asked else None, prior_asked=prior.asked)
    if not prior.asked or prior.asked < prior_rounds:
        return dataclasses.replace(outcome, gate="prior", reason=WAITING)
    if reason := known_without_clip(prior):
        return dataclasses.replace(outcome, gate="prior", reason=reason)

    teacher = count_votes(question, current(question, evidence.teacher))
    outcome = dataclasses.replace(outcome, votes=teacher.right if teacher.asked else None, voters=teacher.asked)
    if not teacher.asked or teacher.asked < teacher_rounds:
        return dataclasses.replace(outcome, gate="unanimity", reason=WAITING)
    if reason := not_unanimous(teacher):
        return dataclasses.replace(outcome, gate="unanimity", reason=reason)

    verdicts = current(question, evidence.grounding)
    if not verdicts:
        return dataclasses.replace(outcome, gate="grounding", reason=WAITING)
    first = verdicts[0]
    outcome = dataclasses.replace(
        outcome, checker=first.checker, probability=first.probability, evidence=first.evidence
    )
    if reason := not_heard(verdicts):
        return dataclasses.replace(outcome, gate="grounding", reason=reason)
    return outcome


def current(question: Question, found: Mapping[str, Sequence[R]] | None) -> list[R]:
    """Return the records about a question by their samples, none of one that asked something else under its id.

    Args:
        question: The question as it is now.
        found: Records by their question; of two of the same sample the first counts.
    """
    now = without_changed((found or {}).get(question.id, ()), [question])[0]
    samples: dict[int, R] = {}
    for record in now:
        samples.setdefault(record.sample, record)
    return [samples[sample] for sample in sorted(samples)]


def _most(found: Mapping[str, Sequence[Trace]] | None) -> int:
    """Return how many samples a question has that a stage is through with."""
    return max((len({trace.sample for trace in some}) for some in (found or {}).values()), default=0)


def counts_at_gates(judged: Iterable[QuestionOutcome]) -> dict[str, tuple[int, int, int]]:
    """Return for each gate how many questions came to it, how many it stopped, and how many wait at it.

    Args:
        judged: Outcomes of all proposals.
    """
    stopped, waiting = dict.fromkeys(GATES, 0), dict.fromkeys(GATES, 0)
    left = 0
    for outcome in judged:
        left += 1
        if outcome.gate:
            (waiting if outcome.reason == WAITING else stopped)[outcome.gate] += 1
    counts = {}
    for gate in GATES:
        counts[gate] = (left, stopped[gate], waiting[gate])
        left -= stopped[gate] + waiting[gate]
    return counts
