"""Records of questions that ask something else by now under the same id: never taken for what is asked today."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

from records.records import Question


class OfQuestion(Protocol):
    """A record about a question."""

    @property
    def question_id(self) -> str:
        """The question."""

    @property
    def question_fingerprint(self) -> str:
        """What it asked then, or empty where that was not recorded."""


R = TypeVar("R", bound=OfQuestion)


def without_changed(records: Iterable[R], questions: Iterable[Question]) -> tuple[list[R], list[R]]:
    """Return records as they can be used, and those whose question has changed since they were made.

    Records of other questions, and those of files that do not say what was asked, count as unchanged.

    Args:
        records: Records about questions.
        questions: The questions as they are now.
    """
    now = {question.id: question.fingerprint for question in questions}
    kept: list[R] = []
    changed: list[R] = []
    for record in records:
        then = record.question_fingerprint
        (changed if then and now.get(record.question_id, then) != then else kept).append(record)
    return kept, changed
