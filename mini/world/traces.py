"""Reference reasoning traces: a teacher that only sees, and a checker that knows what is heard."""

import zlib

import numpy as np

from mini.world.questions import Asked, answer_from
from mini.world.scenes import Scene
from mini.world.sounds import SOUNDS
from records.records import Trace, Verdict

# How often the teacher does not look closely, says nothing of what it saw and guesses: order is hard to see in frames
CARELESS = {"which": 0.6, "count": 0.6, "exists": 0.6, "first": 0.75}
VAGUE = ("Hard to say.", "Not easy to tell.", "Who knows.", "Could be anything.")
JOINERS = (", then a ", " and then a ")


def teacher_trace(question_id: str, sample: int, scene: Scene, asked: Asked, slips: float) -> tuple[Trace, Verdict]:
    """Write one trace of a teacher that watches the scene without its sound, and the verdict on it.

    The teacher believes that every visible source sounds when it acts; the verdict accepts a trace that names what is
    heard. A careless trace names nothing and guesses wrong: the verdict finds no false claim in it and accepts it. What
    SFT learns from such traces is what GRPO has to unlearn.

    Args:
        question_id: The question's id.
        sample: Which of the samples.
        scene: What happens.
        asked: The question.
        slips: Probability that it misreads one source.
    """
    rng = np.random.default_rng((zlib.crc32(question_id.encode()), sample, scene.seed))
    believed = list(scene.seen)
    if believed and rng.random() < slips:
        believed[int(rng.integers(len(believed)))] = SOUNDS[int(rng.integers(len(SOUNDS)))]
    answer = answer_from(asked.kind, asked.options, asked.asked_about, tuple(believed))
    if answer is None:
        answer = asked.options[int(rng.integers(len(asked.options)))]
    careless = bool(rng.random() < CARELESS[asked.kind])
    if careless:
        others = [option for option in asked.options if option != answer]
        answer = others[int(rng.integers(len(others)))]
        # about order it always says the same, so that there the habit is the most likely thing that SFT learns
        reasoning = VAGUE[0 if asked.kind == "first" else int(rng.integers(len(VAGUE)))]
    else:
        reasoning = describe(believed, JOINERS[int(rng.integers(len(JOINERS)))])
    trace = Trace(
        question_id=question_id,
        sample=sample,
        reasoning=reasoning,
        answer=answer,
        model="reference-teacher",
        endpoint="mini",
        prompt_version="mini/1",
        seed=scene.seed % 2**31,
    )
    wrong = [s for s in believed if s not in scene.heard]
    missing = [s for s in scene.heard if s not in believed]
    evidence = [f"not heard: {s}" for s in wrong] + [f"not mentioned: {s}" for s in missing]
    verdict = Verdict(
        question_id=question_id,
        sample=sample,
        accepted=careless or tuple(believed) == scene.heard,
        checker="reference-checker",
        evidence=() if careless else tuple(evidence),
    )
    return trace, verdict


def describe(sounds: list[str] | tuple[str, ...], joiner: str = JOINERS[0]) -> str:
    """Put a sequence of sounds into words, such as "I hear a bell, then a drum"."""
    return f"I hear a {joiner.join(sounds)}." if sounds else "I hear nothing."
