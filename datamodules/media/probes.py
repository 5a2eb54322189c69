"""Probes of a benchmark: can a model hear, and does it choose options rather than places?

The audio is silenced, swapped with another clip's, or replaced by noise of the same level; options are shown in another
order. Everything depends on names and a seed only: every run and every rank gets the same.
"""

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from datamodules.media.audio import ClipFolder
from records.records import Question
from runtime.errors import UserError

ProbeName = Literal["silence", "swap", "noise"]


class Clips(Protocol):
    """Whatever gives a clip's waveform."""

    def load(self, media: str) -> np.ndarray:
        """Return the waveform of a clip."""


@dataclass(frozen=True)
class ProbedClips:
    """Clips whose audio was tampered with.

    Attributes:
        clips: The true clips.
        probe: ``silence``: zeros of the clip's length. ``swap``: another clip. ``noise``: white noise of the clip's
            length and root mean square.
        others: For ``swap``, which clip is heard in a clip's place.
    """

    clips: ClipFolder
    probe: ProbeName
    others: dict[str, str] = dataclasses.field(default_factory=dict)

    def load(self, media: str) -> np.ndarray:
        """Return what is heard in place of a clip.

        Raises:
            MediaError: The clip, or the one in its place, cannot be decoded.
        """
        if self.probe == "swap":
            return self.clips.load(self.others[media])
        waveform = self.clips.load(media)
        if self.probe == "silence":
            return np.zeros_like(waveform)
        noise = np.random.default_rng(_hash(media)).standard_normal(len(waveform))
        level = np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))
        return (noise * (level / np.sqrt(np.mean(np.square(noise))))).astype(np.float32)


def derangement(media: Iterable[str]) -> dict[str, str]:
    """Return another clip for each clip, each once: they stand in a circle whose order is drawn from their names.

    Raises:
        UserError: There is only one clip.
    """
    circle = sorted(set(media), key=lambda name: (_hash(name), name))
    if len(circle) < 2:
        raise UserError("data.probe is swap, but there is no second clip to swap the only one with")
    return dict(zip(circle, [*circle[1:], circle[0]], strict=True))


def shuffle_options(question: Question, seed: int) -> Question:
    """Return a question with its options in an order drawn from its id and a seed; the right answer follows.

    Args:
        question: The question.
        seed: Seed of the order.
    """
    order = np.random.default_rng(_hash(f"{seed}/{question.id}")).permutation(len(question.options)).tolist()
    answer = None if question.answer is None else order.index(question.answer)
    return dataclasses.replace(question, options=tuple(question.options[place] for place in order), answer=answer)


def mark(question: Question, probe: ProbeName) -> Question:
    """Return a question that says which probe it is asked with, so that its prediction says so too."""
    return dataclasses.replace(question, metadata={**question.metadata, "probe": probe})


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
