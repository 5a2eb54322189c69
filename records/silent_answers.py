"""Answers to questions whose clip was silent, and which questions they show to need no hearing."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from records.records import Record


@dataclass(frozen=True)
class SilentAnswer(Record):
    """What a student answered without hearing.

    Attributes:
        question_id: The question.
        sample: Which of the k answers, from 0.
        samples: How many answers there are to be, k.
        choice: Index of the option that was chosen, or None.
        correct: Whether that is the right one; None where there is no label.
        completion: The raw completion.
        model: The student's weights.
        prompt_version: How it was asked.
        temperature: Of the sampling.
        question_fingerprint: What the question asked then (``Question.fingerprint``), or empty where that is unknown.
    """

    schema: ClassVar[str] = "silent_answer/1"

    question_id: str
    sample: int
    samples: int
    choice: int | None
    correct: bool | None
    completion: str = ""
    model: str = ""
    prompt_version: str = ""
    temperature: float = 0.0
    question_fingerprint: str = ""


def known_in_silence(answers: Iterable[SilentAnswer]) -> dict[str, int]:
    """Return the questions that were answered right k of k times, each with its k.

    A question of which an answer is missing yet is not among them.

    Args:
        answers: Answers to any questions.
    """
    found: dict[str, dict[int, SilentAnswer]] = defaultdict(dict)
    for answer in answers:
        found[answer.question_id][answer.sample] = answer
    return {
        question: len(given)
        for question, given in found.items()
        if len(given) >= max(one.samples for one in given.values()) and all(one.correct for one in given.values())
    }
