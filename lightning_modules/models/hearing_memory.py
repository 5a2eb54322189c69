"""What a frozen encoder hears in few clips, encoded once for all epochs."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lightning_modules.models.frozen_audio_encoder import FrozenAudioEncoder, Hears


class HearingMemory:
    """Windows of clips in the memory of the encoder's device, by the clip's name."""

    def __init__(self, encoder: FrozenAudioEncoder, hears: Hears) -> None:
        """Begin without clips.

        Args:
            encoder: Hears the clips.
            hears: What is kept of them.
        """
        self.encoder = encoder
        self.hears: Hears = hears
        self._known: dict[str, Tensor] = {}

    def windows(self, features: Tensor, feature_lengths: np.ndarray, names: Sequence[str] | None) -> list[Tensor]:
        """Return what :meth:`FrozenAudioEncoder.windows` returns.

        Args:
            features: Log-mel features ``[K, M, F]``.
            feature_lengths: Heard frames ``[K]``.
            names: The clips, to be kept and found again; None encodes them and keeps nothing.
        """
        if names is None:
            return self.encoder.windows(features, feature_lengths, self.hears)
        if not all(name in self._known for name in names):
            heard = self.encoder.windows(features, feature_lengths, self.hears)
            self._known.update(zip(names, heard, strict=True))
        return [self._known[name] for name in names]
