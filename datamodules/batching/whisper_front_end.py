"""The front end of Whisper: log-mel frames of one window, a token for every four of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from datamodules.batching.audio_tokens import EDGE_FRAMES, Frames, num_audio_tokens

_FRAMES_OF_SILENCE = 4
"""Frames computed beyond the heard ones, so that the end of the shortened signal cannot be seen in those that are kept:
a window reaches 1.25 frames beyond its own place, and as much is mirrored at the signal's end."""


class WhisperFrontEnd:
    """Qwen2-Audio's and Qwen2.5-Omni's; what the parts mean says :class:`.front_end.FrontEnd`.

    Features are those that the processor would return for the same audio, except that they end two frames after the
    longest clip: those are needed, the silence behind them is not.
    """

    frames_per_token = 4

    def num_tokens(self, feature_lengths: Frames) -> Frames:
        """Return the audio tokens of clips."""
        return num_audio_tokens(feature_lengths)

    def around(self, processor: Any) -> tuple[list[int], list[int]]:
        """Return nothing: what is around the audio tokens is in the chat template."""
        return [], []

    def max_samples(self, processor: Any) -> int:
        """Return the length of the feature extractor's chunk."""
        return int(processor.feature_extractor.n_samples)

    def heard(self, waveform: np.ndarray, processor: Any) -> np.ndarray:
        """Return a clip without what is beyond the chunk."""
        return np.ascontiguousarray(waveform[: self.max_samples(processor)], dtype=np.float32)

    def num_frames(self, samples: int, processor: Any) -> int:
        """Return the heard mel frames of a clip; the last one may be begun only."""
        return -(-samples // int(processor.feature_extractor.hop_length))

    def features(self, waveforms: Sequence[np.ndarray], processor: Any) -> tuple[Tensor, np.ndarray]:
        """Return log-mel features ``[B, M, F]`` and the heard frames ``[B]``."""
        extractor = processor.feature_extractor
        frames = self.num_frames(max(len(waveform) for waveform in waveforms), processor)
        extracted = extractor(
            list(waveforms),
            sampling_rate=extractor.sampling_rate,
            padding="max_length",
            max_length=min((frames + _FRAMES_OF_SILENCE) * int(extractor.hop_length), int(extractor.n_samples)),
            return_attention_mask=True,
            return_tensors="pt",
        )
        lengths: np.ndarray = extracted["attention_mask"].sum(-1).long().numpy()
        return extracted["input_features"][..., : frames + EDGE_FRAMES].contiguous(), lengths
