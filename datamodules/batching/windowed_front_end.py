"""The front end of Audio Flamingo 3: long clips as windows of 30 s, each of which is Whisper's signal by itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.batching.whisper_front_end import WhisperFrontEnd


class WindowedFrontEnd(WhisperFrontEnd):
    """As Whisper's, window after window: a clip's frames follow one another, and so do its tokens.

    All windows of a clip but the last are full, and a full one has a whole number of tokens, so that lengths are those
    of one signal. The level of a window's features is its own, as the processor makes them.
    """

    def max_samples(self, processor: Any) -> int:
        """Return the length of all windows that the processor takes."""
        extractor = processor.feature_extractor
        return int(processor.max_audio_len // extractor.chunk_length) * int(extractor.n_samples)

    def features(self, waveforms: Sequence[np.ndarray], processor: Any) -> tuple[Tensor, np.ndarray]:
        """Return log-mel features ``[B, M, F]``, the windows of each clip joined, and the heard frames ``[B]``."""
        size = int(processor.feature_extractor.n_samples)
        windows = [[waveform[i : i + size] for i in range(0, len(waveform), size)] for waveform in waveforms]
        mel, lengths = super().features([window for clip in windows for window in clip], processor)
        if len(mel) == len(waveforms):
            return mel, lengths
        counts = [len(clip) for clip in windows]
        clips = [torch.cat(list(part), 1) for part in mel.split(counts)]  # one that has several fills the first ones
        widest = max(clip.shape[1] for clip in clips)
        padded = torch.stack([nn.functional.pad(clip, (0, widest - clip.shape[1])) for clip in clips])
        return padded, np.array([part.sum() for part in np.split(lengths, np.cumsum(counts)[:-1])])
