"""Qwen2-Audio's audio embeddings, computed for the heard part of each clip only.

The released encoder insists on 30 s of mel frames and masks what lies past the clip's end. Two frames past the end
are all that its convolutions can see from a heard position, so the rest need not be computed: the result is equal.
"""

from typing import Any

import torch
from torch import Tensor, nn

EDGE_FRAMES = 2
"""Mel frames past the heard ones that the two convolutions look at."""


def audio_token_counts(feature_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many encoder positions and how many audio tokens clips of ``feature_lengths`` mel frames have.

    Args:
        feature_lengths: Heard mel frames ``[B]``.

    Returns:
        Encoder positions ``[B]`` (after the strided convolution) and audio tokens ``[B]`` (after pooling).
    """
    positions = (feature_lengths - 1) // 2 + 1
    return positions, (positions - 2) // 2 + 1


def encode_audio(tower: Any, projector: Any, features: Tensor, feature_lengths: Tensor) -> Tensor:
    """Encode clips into the language model's embedding space.

    Args:
        tower: A ``Qwen2AudioEncoder``.
        projector: The multi-modal projector.
        features: Log-mel features ``[B, M, F]``: each clip's heard frames and what follows in the zero-padded signal,
            for at least :data:`EDGE_FRAMES` frames or up to the encoder's limit.
        feature_lengths: Heard mel frames ``[B]``.

    Returns:
        The embeddings of all clips' audio tokens, one clip after the other ``[sum of tokens, H]``.
    """
    positions, tokens = audio_token_counts(feature_lengths)
    longest = int(positions.max())
    limit = tower.max_source_positions
    if longest > limit:
        raise ValueError(f"a clip has {int(feature_lengths.max())} mel frames; the audio tower hears {2 * limit}")
    heard = int(feature_lengths.max())
    features = features[..., : min(heard + EDGE_FRAMES, 2 * limit)].to(tower.conv1.weight.dtype)
    hidden = nn.functional.gelu(tower.conv2(nn.functional.gelu(tower.conv1(features))))
    hidden = hidden.transpose(1, 2)[:, :longest] + tower.embed_positions.weight[:longest]
    hidden = nn.functional.dropout(hidden, p=tower.dropout, training=tower.training)
    mask = None
    if int(positions.min()) < longest:
        seen = torch.arange(longest, device=positions.device) < positions[:, None]
        mask = torch.zeros(seen.shape, dtype=hidden.dtype, device=hidden.device)
        mask = mask.masked_fill(~seen, torch.finfo(hidden.dtype).min)[:, None, None, :]
        mask = mask.expand(-1, 1, longest, longest)
    for layer in tower.layers:
        hidden = layer(hidden, mask)
    pooled = tower.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2)
    embeddings = projector(tower.layer_norm(pooled))
    return embeddings[torch.arange(embeddings.shape[1], device=tokens.device) < tokens[:, None]]
