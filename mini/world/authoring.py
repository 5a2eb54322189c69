"""Questions that the synthetic world's teacher writes about what it sees, faults of real writers included."""

import json
import re

import numpy as np

from mini.world.questions import NUMBERS
from mini.world.sounds import SOUNDS

WORDING: dict[str, tuple[str, ...]] = {
    "which": ("Which sound can be heard in the audio?", "What makes the sound in the audio?"),
    "first": ("Which sound comes first in the audio?", "What is the first sound in the audio?"),
    "count": ("How many sounds are heard in the audio?",),
}
"""Its questions that are about what is heard and give nothing away."""

FAULTS = {
    "no object": 0.03,
    "cut": 0.02,
    "two options": 0.02,
    "no answer": 0.01,
    "same option": 0.04,
    "sight": 0.06,
    "given away": 0.05,
    "long answer": 0.05,
}
"""How often it writes something else than was asked for."""

ASKED = {
    "Which": "which",
    "Come From": "which",
    "Acoustic Source Inference": "which",
    "Sound-Based Event Recognition": "which",
    "Before Next": "first",
    "Temporal Event Reasoning": "first",
    "Event-Based Sound Reasoning": "count",
}
"""What it makes of a kind of question; of the others it says that the clip gives none."""

_KIND = re.compile(r"of the kind: (.+?) \(")


def asked_kind(prompt: str) -> str | None:
    """Return the kind of question that a prompt asks for, None where it asks for no question."""
    found = _KIND.search(prompt)
    return found[1] if found else None


def authored(kind: str, believed: list[str], rng: np.random.Generator) -> str:
    """Return a question as the teacher writes it.

    Args:
        kind: The kind of question that is asked for.
        believed: The sounds that it believes to be made, in order.
        rng: Draws wording, distractors and faults.
    """
    asked = ASKED.get(kind)
    if asked is None or not believed or (asked == "first" and len(believed) < 2):
        return json.dumps({"question": None})
    text = WORDING[asked][int(rng.integers(len(WORDING[asked])))]
    answer, others = _options(asked, believed, rng)
    fault = str(rng.choice([*FAULTS, ""], p=[*FAULTS.values(), 1 - sum(FAULTS.values())]))
    if fault == "no object":
        return f"A good question would be what makes the sound, and it is the {answer}."
    if fault == "two options":
        others = others[:2]
    elif fault == "same option":
        others[-1] = answer.capitalize() if rng.random() < 0.5 else f"the {answer}"
    elif fault == "sight":
        text = str(rng.choice(["Which thing is seen first in the video?", "What colour is the thing that sounds?"]))
    elif fault == "given away":
        text = f"Which sound does the {answer} make in the audio?"
    elif fault == "long answer":
        answer = f"a {answer} that can be heard clearly from close by"
    written = json.dumps({"question": text, "answer": answer, "others": others})
    if fault == "no answer":
        written = json.dumps({"question": text, "others": others})
    return written[: len(written) // 2] if fault == "cut" else written


def guessed(options: tuple[str, ...], question: str, rng: np.random.Generator) -> str:
    """Return an answer of somebody who gets no clip: what the wording suggests, else anything.

    Args:
        options: The options as shown.
        question: The question.
        rng: Draws.
    """
    named = [option for option in options if re.search(rf"\b{re.escape(option)}\b", question)]
    if len(named) == 1:
        return named[0]
    by_length = sorted(options, key=len)
    if len(by_length) > 1 and len(by_length[-1]) > 2 * len(by_length[-2]):
        return by_length[-1]
    return options[int(rng.integers(len(options)))]


def _options(asked: str, believed: list[str], rng: np.random.Generator) -> tuple[str, list[str]]:
    if asked == "count":
        answer = NUMBERS[min(len(believed), len(NUMBERS) - 1)]
        return answer, [number for number in NUMBERS[1:] if number != answer]
    answer = believed[0] if asked == "first" else believed[int(rng.integers(len(believed)))]
    absent = [sound for sound in SOUNDS if sound not in believed]
    others = [sound for sound in dict.fromkeys(believed) if sound != answer] if asked == "first" else []
    others += [absent[place] for place in rng.permutation(len(absent))]
    return answer, others[:3]
