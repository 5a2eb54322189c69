"""Questions about scenes, in the wording of each benchmark, and their right answers."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mini.world.scenes import Scene
from mini.world.sounds import INSTRUMENTS, SOUNDS

NUMBERS = ("zero", "one", "two", "three", "four")


@dataclass(frozen=True)
class Asked:
    """A question about one scene.

    Attributes:
        kind: ``which``, ``first``, ``count`` or ``exists``.
        text: The question in the wording of its benchmark; ``<Object>`` and the like where it is a template.
        options: The options as shown.
        answer: The right option.
        asked_about: The sounds that fill the template.
    """

    kind: str
    text: str
    options: tuple[str, ...]
    answer: str
    asked_about: tuple[str, ...] = ()


AVQA_WORDING: dict[str, tuple[str, ...]] = {
    "which": (
        "Which sound can be heard in the video?",
        "What is the source of the sound in the video?",
        "What makes the sound in the video?",
    ),
    "first": (
        "Which sound comes first in the video?",
        "What is the first sound that comes in in the video?",
    ),
    "count": (
        "How many sounds are heard in the video?",
        "How many sounds were heard throughout the video?",
    ),
    "exists": (
        "Is there a {0} sound in the video?",
        "Is a {0} heard in the video?",
    ),
}
MMAU_WORDING: dict[str, tuple[str, ...]] = {
    "which": (
        "Based on the given audio, identify the source of the sound.",
        "Which sound can be heard in the audio?",
    ),
    "first": ("Which sound comes first in the audio?", "Based on the given audio, what is the first sound?"),
    "count": ("How many sounds are heard in the given audio?",),
    "exists": ("Is there a {0} sound in the given audio?",),
}
# The templates of the real test set: the placeholders are filled from the row's values
MUSIC_AVQA_WORDING: dict[str, tuple[str, ...]] = {
    "exists": ("Is there a <Object> sound?",),
    "both": ("Are there <Object> and <Object> sound? ",),
    "count": (
        "How many musical instruments were heard throughout the video?",
        "How many instruments are sounding in the video?",
    ),
    "ordinal": ("What is the <TH> instrument that comes in?",),
    "seen": ("How many types of musical instruments appeared in the entire video?",),
}


def possible_kinds(scene: Scene) -> list[str]:
    """Return the kinds of question that the scene admits."""
    return ["count", "exists", "first" if len(scene.heard) > 1 else "which"]


def ask(scene: Scene, kind: str, wording: dict[str, tuple[str, ...]], rng: np.random.Generator) -> Asked:
    """Ask a question of a given kind.

    Distractors prefer the silent visible sources, so that seeing alone misleads.

    Args:
        scene: The scene.
        kind: One of ``possible_kinds(scene)``.
        wording: The texts of each kind.
        rng: Draws wording, distractors and the order of the options.
    """
    texts = wording[kind]
    text = texts[int(rng.integers(len(texts)))]
    if kind == "exists":
        present = bool(rng.random() < 0.5)
        name = _pick(scene.heard, rng) if present else _pick(_misleading(scene) or _absent(scene), rng)
        return Asked(kind, text.format(name), ("yes", "no"), "yes" if present else "no", (name,))
    if kind == "count":
        return Asked(kind, text, NUMBERS[1:], NUMBERS[len(scene.heard)])
    right = {"which": _pick(scene.heard, rng), "first": scene.heard[0]}[kind]
    others = [] if kind == "which" else [s for s in scene.heard if s != right]
    others += [s for s in _misleading(scene) if s not in others]
    absent = [s for s in _absent(scene) if s not in others]
    others += [absent[i] for i in rng.permutation(len(absent))]
    options = [right, *others[:3]]
    return Asked(kind, text, tuple(options[i] for i in rng.permutation(4)), right)


def answer_from(
    kind: str, options: tuple[str, ...], asked_about: tuple[str, ...], believed: tuple[str, ...]
) -> str | None:
    """Return the option that follows from a belief about what sounds, or None when none does.

    Args:
        kind: Kind of the question.
        options: Its options.
        asked_about: The sounds it names.
        believed: The sounds that are believed to be heard, in order.
    """
    rules: dict[str, Callable[[], str | None]] = {
        "which": lambda: next((s for s in believed if s in options), None),
        "first": lambda: believed[0] if believed else None,
        "count": lambda: NUMBERS[len(believed)],
        "exists": lambda: "yes" if asked_about[0] in believed else "no",
    }
    answer = rules[kind]()
    return answer if answer in options else None


def _misleading(scene: Scene) -> list[str]:
    """Return the sources that are seen but not heard."""
    return [s for s in scene.seen if s not in scene.heard]


def _absent(scene: Scene) -> list[str]:
    sounds = INSTRUMENTS if set(scene.heard) <= set(INSTRUMENTS) and scene.name.isdigit() else SOUNDS
    return [s for s in sounds if s not in scene.heard]


def _pick(items: tuple[str, ...] | list[str], rng: np.random.Generator) -> str:
    return items[int(rng.integers(len(items)))]
