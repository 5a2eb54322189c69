"""How many tokens a clip becomes after an encoder like Whisper's, and how far that sees beyond the clip's end."""

from typing import TypeVar

import numpy as np

EDGE_FRAMES = 2
"""Frames kept beyond the heard ones: as far as the encoder's two convolutions see from a clip of odd length."""

Frames = TypeVar("Frames", int, np.ndarray)


def audio_token_counts(feature_lengths: Frames) -> tuple[Frames, Frames]:
    """Return how many encoder positions and how many audio tokens clips of ``feature_lengths`` mel frames have.

    Qwen2-Audio, Qwen2.5-Omni and Audio Flamingo 3 have a convolution of stride 2 and a pooling of 2. Their processors
    expand the audio's placeholder to as many tokens.

    Args:
        feature_lengths: Heard mel frames, of one clip or ``[B]``.

    Returns:
        Encoder positions (after the strided convolution) and audio tokens (after pooling).
    """
    positions = (feature_lengths - 1) // 2 + 1
    return positions, (positions - 2) // 2 + 1


def num_audio_tokens(heard_frames: Frames) -> Frames:
    """Return the audio tokens alone; see :func:`audio_token_counts`."""
    return audio_token_counts(heard_frames)[1]
