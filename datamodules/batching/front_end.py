"""How clips become mel frames and audio tokens, which differs between families of students: behind :class:`FrontEnd`.

Data, encoders and rollout servers must agree on it. What a family does is found by its processor's class, so that a
DataModule needs no model; an architecture names the same one.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor

from datamodules.batching.whisper_front_end import WhisperFrontEnd
from datamodules.batching.windowed_front_end import WindowedFrontEnd
from runtime.errors import UserError

Frames = TypeVar("Frames", int, np.ndarray)


class FrontEnd(Protocol):
    """What a family does to the samples of a clip before its encoder.

    Attributes:
        frames_per_token: Mel frames that an audio token stands for.
    """

    frames_per_token: int

    def num_tokens(self, feature_lengths: Frames) -> Frames:
        """Return the audio tokens of clips of ``feature_lengths`` mel frames, of one clip or ``[B]``."""

    def around(self, processor: Any) -> tuple[list[int], list[int]]:
        """Return the token ids that the processor puts before and after a clip's audio tokens."""

    def max_samples(self, processor: Any) -> int:
        """Return how many samples of a clip are heard at most."""

    def heard(self, waveform: np.ndarray, processor: Any) -> np.ndarray:
        """Return a clip as it is heard and sent to servers: cut, and padded where the family needs it."""

    def num_frames(self, samples: int, processor: Any) -> int:
        """Return the heard mel frames of a clip of so many samples."""

    def features(self, waveforms: Sequence[np.ndarray], processor: Any) -> tuple[Tensor, np.ndarray]:
        """Return log-mel features ``[B, M, F]`` and the heard frames ``[B]`` of clips as :meth:`heard` returns them."""


FRONT_ENDS: dict[str, FrontEnd] = {
    "Qwen2AudioProcessor": WhisperFrontEnd(),
    "Qwen2_5OmniProcessor": WhisperFrontEnd(),
    "AudioFlamingo3Processor": WindowedFrontEnd(),
}
"""By the processor's class."""


def front_end_of(processor: Any) -> FrontEnd:
    """Return the front end of a processor's family.

    Raises:
        UserError: No student has such a processor.
    """
    found = FRONT_ENDS.get(type(processor).__name__)
    if found is None:
        raise UserError(
            f"the processor is a {type(processor).__name__}, a student's is one of {', '.join(sorted(FRONT_ENDS))}"
        )
    return found
