"""The answer stands at any place: options are put into an order that depends on the question alone."""

import dataclasses
import hashlib
from collections.abc import Iterable

from records.records import Question


def in_drawn_order(question: Question) -> Question:
    """Return a question with its options in an order drawn from its id; the answer follows.

    The same question has the same order in every run, whatever others there are.

    Args:
        question: The question.
    """
    order = sorted(range(len(question.options)), key=lambda place: _drawn(f"{question.id}/{place}"))
    answer = None if question.answer is None else order.index(question.answer)
    return dataclasses.replace(question, options=tuple(question.options[place] for place in order), answer=answer)


def answers_at_places(questions: Iterable[Question]) -> list[int]:
    """Return how many answers stand at each place.

    Args:
        questions: The questions; those without an answer are not counted.
    """
    counts: list[int] = []
    for question in questions:
        counts += [0] * (len(question.options) - len(counts))
        if question.answer is not None:
            counts[question.answer] += 1
    return counts


def _drawn(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
