"""What models answered to a question: without the clip (the prior), and from its frames (the teacher)."""

from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.reading.self_consistency import answered_option
from records.records import Question, Trace


@dataclass(frozen=True)
class Votes:
    """Answers to one question.

    Attributes:
        right: Those that are the written answer.
        asked: All of them, unreadable ones included.
    """

    right: int
    asked: int


def count_votes(question: Question, traces: Sequence[Trace]) -> Votes:
    """Return how many traces chose the written answer.

    Args:
        question: The question with its answer.
        traces: Its traces.
    """
    right = sum(answered_option(trace, question) == question.answer_text for trace in traces)
    return Votes(right, len(traces))


def known_without_clip(votes: Votes) -> str:
    """Return why a question tests no hearing, or nothing: a model without the clip was right k of k times.

    Args:
        votes: Answers of a model that got no clip.
    """
    return f"{votes.right} of {votes.asked} answers without the clip are right" if votes.right == votes.asked else ""


def not_unanimous(votes: Votes) -> str:
    """Return why the teacher does not stand by a question, or nothing (self-consistency, paper, section 3.1).

    All answers must be the same, and that of whoever wrote the question.

    Args:
        votes: The teacher's answers.
    """
    if votes.right == votes.asked:
        return ""
    return f"{votes.right} of {votes.asked} answers are the written one"
