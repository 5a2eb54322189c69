"""How many written questions are right, before and after each gate: the synthetic world knows the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from corpus.judged_questions import GATES, Judged
from mini.world.authoring import WORDING
from mini.world.questions import NUMBERS
from records.records import Question


@dataclass(frozen=True)
class Quality:
    """What is left after a gate.

    Attributes:
        gate: The gate; ``proposed`` is what was written and could be read.
        kept: Questions that are left.
        right: Those that are right and can be answered from the sound.
        precision: Part of what is left that is right; None where nothing is left.
        recall: Part of the right ones proposed that is left; None where none was right.
    """

    gate: str
    kept: int
    right: int
    precision: float | None
    recall: float | None


def is_right(question: Question, heard: Sequence[str]) -> bool:
    """Return True when a question can be answered from the sound, and its answer is the only right one.

    Args:
        question: The question with its answer.
        heard: What is heard in its clip, in order.
    """
    kind = next((kind for kind, texts in WORDING.items() if question.text in texts), None)
    answer = question.answer_text
    if kind is None or len({option.casefold().removeprefix("the ") for option in question.options}) < len(
        question.options
    ):
        return False
    if kind == "count":
        return answer == NUMBERS[min(len(heard), len(NUMBERS) - 1)]
    if kind == "first":
        return bool(heard) and answer == heard[0]
    return [option for option in question.options if option in heard] == [answer]


def quality_at_gates(judged: Sequence[Judged], heard: Mapping[str, Sequence[str]]) -> list[Quality]:
    """Return what is left after each gate, in their order; ``readable`` is the first and called ``proposed``.

    Args:
        judged: All proposals.
        heard: What is heard in each clip, in order.
    """
    readable = [one for one in judged if one.question is not None]
    right = {id(one) for one in readable if one.question and is_right(one.question, heard[one.outcome.clip])}
    found = []
    for place, gate in enumerate(GATES):
        passed = [one for one in readable if one.passed or GATES.index(one.outcome.gate) > place]
        good = sum(id(one) in right for one in passed)
        found.append(
            Quality(
                gate="proposed" if gate == "readable" else gate,
                kept=len(passed),
                right=good,
                precision=good / len(passed) if passed else None,
                recall=good / len(right) if right else None,
            )
        )
    return found
