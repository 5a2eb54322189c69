"""What a text of the synthetic world says about sounds, and whether it is true of a clip."""

import re
from dataclasses import dataclass

import numpy as np

from mini.world.hearing import heard_in_order, probability
from mini.world.questions import NUMBERS
from mini.world.sounds import SOUNDS

REFUTED = 0.02
"""Probability of what contradicts the order or the number of the sounds that are heard."""

_SOUND = re.compile(rf"\b(no )?({'|'.join(SOUNDS)})s?\b", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """A question as an endpoint reads it.

    Attributes:
        kind: ``which``, ``first``, ``last``, ``count`` or ``exists``.
        about: The sounds it names.
        options: Its options where they are shown.
    """

    kind: str
    about: tuple[str, ...]
    options: tuple[str, ...]


def read_question(text: str) -> Asked:
    """Find out what is asked from the wording.

    Args:
        text: The question, with its options as lines ``(A) text`` where they are shown.
    """
    lines = text.splitlines()
    options = tuple(line[4:].strip() for line in lines if re.match(r"\([A-Z]\) ", line))
    question = next((line for line in lines if line.strip().endswith("?")), lines[0] if lines else "").casefold()
    about = tuple(word for word in SOUNDS if re.search(rf"\b{word}\b", question))
    if "how many" in question:
        kind = "count"
    elif re.search(r"\bis (?:there )?a\b", question) and about:
        kind = "exists"
    else:
        kind = "first" if "first" in question else "last" if "last" in question else "which"
    return Asked(kind, about, options)


def mentioned(text: str) -> list[tuple[str, bool]]:
    """Return the sounds that a text mentions, in order, each with whether it is said to be heard."""
    return [(found[2].casefold(), not found[1]) for found in _SOUND.finditer(text)]


def truth(likely: np.ndarray, reasoning: str, answer: str = "", question: str = "") -> float:
    """Return how likely it is that everything a trace says is true of a clip.

    Each mentioned sound must be heard (or not, where that is said), the sounds must come in the order of their mention,
    and the answer must follow from what is heard.

    Args:
        likely: How likely each sound is in each third of the clip.
        reasoning: The trace.
        answer: Its answer, or empty.
        question: The question, needed to understand the answer.
    """
    said = mentioned(reasoning)
    result = 1.0
    for sound, is_heard in dict.fromkeys(said):
        chance = probability(likely, sound)
        result *= chance if is_heard else 1 - chance
    heard = heard_in_order(likely)
    positive = [sound for sound, is_heard in said if is_heard]
    order = [sound for sound in dict.fromkeys(positive) if sound in heard]
    if order != sorted(order, key=heard.index):
        result *= REFUTED
    if answer and not _follows(read_question(question), answer.casefold().strip(), heard):
        result *= REFUTED
    return result


def answer_truth(likely: np.ndarray, question: str, answer: str) -> float:
    """Return how likely it is that an answer is right for someone who hears a clip.

    Args:
        likely: How likely each sound is in each third of the clip.
        question: The question.
        answer: The answer.
    """
    asked, said = read_question(question), answer.casefold().strip()
    if asked.kind == "which":
        return probability(likely, said) if said in SOUNDS else REFUTED
    return 1 - REFUTED if _follows(asked, said, heard_in_order(likely)) else REFUTED


def _follows(asked: Asked, answer: str, heard: list[str]) -> bool:
    """Return True when an answer is right for someone who hears these sounds."""
    if asked.kind == "count":
        return answer == NUMBERS[min(len(heard), len(NUMBERS) - 1)]
    if asked.kind == "exists":
        return answer == ("yes" if set(asked.about) & set(heard) else "no")
    if not heard:
        return False
    return {"first": answer == heard[0], "last": answer == heard[-1], "which": answer in heard}[asked.kind]
