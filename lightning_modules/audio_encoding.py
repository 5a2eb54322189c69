"""How many tokens a clip becomes; the encoders themselves are in ``qwen2_audio.py`` and ``qwen2_5_omni.py``."""

from torch import Tensor


def audio_token_counts(feature_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many encoder positions and how many audio tokens clips of ``feature_lengths`` mel frames have.

    Both families descend from Whisper's encoder: a convolution of stride 2 and a pooling of 2.

    Args:
        feature_lengths: Heard mel frames ``[B]``.

    Returns:
        Encoder positions ``[B]`` (after the strided convolution) and audio tokens ``[B]`` (after pooling).
    """
    positions = (feature_lengths - 1) // 2 + 1
    return positions, (positions - 2) // 2 + 1
