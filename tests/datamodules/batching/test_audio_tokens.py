"""The formula by which placeholders in prompts and rows of the encoder's output are counted."""

import numpy as np

from datamodules.batching.audio_tokens import audio_token_counts, num_audio_tokens


def test_one_clip_and_many_are_counted_alike() -> None:
    # 5 frames: the strided convolution stands at frames 0, 2 and 4; the pooling takes pairs, of which there is one
    assert audio_token_counts(5) == (3, 1)
    frames = np.array([3, 4, 5, 200, 1_000, 3_000])
    positions, tokens = audio_token_counts(frames)
    assert positions.tolist() == [2, 2, 3, 100, 500, 1_500] and tokens.tolist() == [1, 1, 1, 50, 250, 750]
    assert [num_audio_tokens(n) for n in frames.tolist()] == tokens.tolist()
