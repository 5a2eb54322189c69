"""Signals through an encoder like Whisper's, no longer than they are heard: Qwen2-Audio's and Audio Flamingo's.

The released encoders insist on 30 s of mel frames and mask what lies past the clip's end. Two frames past the end are
all that the convolutions can see from a heard position, so the rest need not be computed: the result is equal.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.batching.audio_tokens import EDGE_FRAMES, audio_token_counts
from datamodules.batching.host_arrays import to_device
from lightning_modules.models.architectures.audio_encoding import attention_mask
from lightning_modules.models.architectures.transformers_internals import attention_of


def encode_signals(tower: Any, features: Tensor, feature_lengths: np.ndarray) -> Tensor:
    """Encode signals of one window each.

    Args:
        tower: The encoder.
        features: Log-mel features ``[W, M, F]``: each signal's heard frames and what follows in the zero-padded
            signal, for at least :data:`EDGE_FRAMES` frames or up to the encoder's limit.
        feature_lengths: Heard mel frames ``[W]``.

    Returns:
        Its hidden states, pooled and normed ``[W, tokens of the longest, A]``.

    Raises:
        ValueError: A signal is longer than the encoder hears.
    """
    positions, _ = audio_token_counts(feature_lengths)
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
    if positions.min() < longest:
        seen = to_device(np.arange(longest) < positions[:, None], hidden.device)
        mask = attention_mask(seen, attention_of(tower), hidden.dtype)
    for layer in tower.layers:
        hidden = layer(hidden, mask)
    pooled = tower.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2)
    normed: Tensor = tower.layer_norm(pooled)
    return normed


def without_padding(embeddings: Tensor, feature_lengths: np.ndarray) -> Tensor:
    """Join the audio tokens of signals.

    Args:
        embeddings: ``[W, tokens of the longest, H]``.
        feature_lengths: Heard mel frames ``[W]``.

    Returns:
        ``[sum of tokens, H]``.
    """
    _, tokens = audio_token_counts(feature_lengths)
    return torch.cat([clip[:count] for clip, count in zip(embeddings, tokens.tolist(), strict=True)])
