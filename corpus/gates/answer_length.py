"""The answer is not the longest option by habit, neither of a question nor of the corpus."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

from records.records import Question

TIMES = 1.6
"""An answer so many times as long as the longest other option stands out."""

SPARE = 8
"""Characters more than the longest other option that never stand out: "piano" beside "dog" is no habit."""


def answer_stands_out(question: Question) -> str:
    """Return why a question's answer can be told by its length, or nothing where it cannot.

    Args:
        question: The question with its answer.
    """
    if question.answer is None:
        return ""
    answer = len(question.options[question.answer])
    others = max(len(option) for place, option in enumerate(question.options) if place != question.answer)
    if answer <= max(TIMES * others, others + SPARE):
        return ""
    return f"the answer has {answer} characters, the longest other option {others}"


@dataclass(frozen=True)
class LengthBias:
    """How often the answer is the longest option, against how often it would be by chance.

    Attributes:
        questions: Questions in which one option is longer than all others.
        longest: Those of them in which that is the answer.
        expected: How many there would be if the answer were any of the options.
        deviation: ``longest - expected`` in standard deviations of that chance; above 3 is a habit.
    """

    questions: int
    longest: int
    expected: float
    deviation: float

    def sentence(self) -> str:
        """Return it in one line."""
        habit = "a habit" if self.deviation > 3 else "no habit"
        return (
            f"the answer is the longest option in {self.longest} of {self.questions} questions that have one, "
            f"{self.expected:.1f} are expected by chance ({self.deviation:+.1f} standard deviations: {habit})"
        )


def length_bias(questions: Iterable[Question]) -> LengthBias:
    """Return how often the answers of a corpus are the longest option.

    Args:
        questions: The questions; those without an answer, and without one longest option, tell nothing.
    """
    number = longest = 0
    expected = variance = 0.0
    for question in questions:
        lengths = [len(option) for option in question.options]
        if question.answer is None or lengths.count(max(lengths)) > 1:
            continue
        chance = 1 / len(lengths)
        number += 1
        longest += lengths[question.answer] == max(lengths)
        expected += chance
        variance += chance * (1 - chance)
    deviation = (longest - expected) / sqrt(variance) if variance else 0.0
    return LengthBias(number, longest, expected, deviation)
