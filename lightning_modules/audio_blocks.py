"""Attention of an audio tower that hears blocks by themselves, in one call instead of one for each block."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ATTENTION = "audio_blocks"
"""Name under which the attention is registered with transformers."""


@dataclass(frozen=True)
class AudioBlocks:
    """Where the positions of a row of blocks belong.

    Attributes:
        count: K, blocks.
        longest: T, positions of the longest.
        places: Place of each position in the padded ``[K * T]``; None where all blocks are equally long.
        seen: True on positions of a block, False on its padding ``[K, 1, 1, T]``; None as ``places``.
    """

    count: int
    longest: int
    places: Tensor | None
    seen: Tensor | None


def audio_blocks(lengths: list[int], longest: int, device: torch.device) -> AudioBlocks:
    """Describe the blocks of clips that are cut every ``longest`` positions.

    Args:
        lengths: Positions of each clip.
        longest: Positions of a whole block.
        device: Where the positions are.
    """
    sizes = [min(longest, length - start) for length in lengths for start in range(0, length, longest)]
    width = max(sizes)
    if min(sizes) == width:
        return AudioBlocks(len(sizes), width, None, None)
    seen = torch.arange(width, device=device) < torch.tensor(sizes, device=device)[:, None]
    return AudioBlocks(len(sizes), width, seen.flatten().nonzero()[:, 0], seen[:, None, None])


def audio_block_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    blocks: AudioBlocks | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within blocks; without a description of them it is transformers' own SDPA attention.

    Args:
        module: The attention layer.
        query: ``[1, heads, N, d]``.
        key: As ``query``.
        value: As ``query``.
        attention_mask: Used only without blocks.
        scaling: Multiplies the scores.
        dropout: Dropout probability of the attention weights.
        blocks: Where the blocks are.
        **kwargs: Passed on without blocks.

    Returns:
        ``[1, N, heads, d]`` and None for the weights.
    """
    if blocks is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    heads, width = query.shape[1], query.shape[3]
    rows = blocks.count * blocks.longest

    def padded(x: Tensor) -> Tensor:  # [1, h, N, d] -> [K, h, T, d]
        packed = x[0].transpose(0, 1)
        if blocks.places is not None:
            packed = packed.new_zeros(rows, heads, width).index_copy(0, blocks.places, packed)
        return packed.reshape(blocks.count, blocks.longest, heads, width).transpose(1, 2)

    attended = nn.functional.scaled_dot_product_attention(
        padded(query), padded(key), padded(value), attn_mask=blocks.seen, dropout_p=dropout, scale=scaling
    )
    packed = attended.transpose(1, 2).reshape(rows, heads, width)
    if blocks.places is not None:
        packed = packed.index_select(0, blocks.places)
    return packed[None], None


AttentionInterface.register(ATTENTION, audio_block_attention)
