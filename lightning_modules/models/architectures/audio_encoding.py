"""What all audio encoders share; each is in the file of its architecture."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.batching.batch import AudioQABatch
from lightning_modules.models.architectures.transformers_internals import attention_of
from runtime.errors import UserError

ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
"""Attentions that the audio tower may have."""


def audio_places(batch: AudioQABatch, tokens: np.ndarray, placeholder: int, starts: np.ndarray) -> np.ndarray:
    """Return where the audio tokens of a batch belong among its prompts' tokens, clip after clip.

    Args:
        batch: The questions.
        tokens: Audio tokens of each clip ``[B]``.
        placeholder: Token id of the audio placeholder, which is nowhere else.
        starts: Where each prompt begins ``[B]``.

    Returns:
        The places ``[sum of audio tokens]``.

    Raises:
        ValueError: The prompts have another number of placeholders than their clips have audio tokens.
    """
    asked = np.array([len(ids) for ids in batch.request_ids])
    named = np.array([ids.count(placeholder) for ids in batch.request_ids])  # one, which the prompt has as a run
    found = batch.prompt_lengths - asked + named
    if not np.array_equal(found, tokens) or not (named == 1).all():
        raise ValueError(
            f"prompts have {found.tolist()} audio placeholders, their clips {tokens.tolist()} audio tokens"
        )
    first = starts + np.array([ids.index(placeholder) for ids in batch.request_ids])
    return np.concatenate([np.arange(n) + start for start, n in zip(first, tokens, strict=True)])


def attention_mask(seen: Tensor, attention: str, dtype: torch.dtype) -> Tensor:
    """Return what an attention of transformers wants as its mask where a batch's rows are of unequal length.

    Args:
        seen: True at positions that belong to the row ``[B, P]``.
        attention: One of :data:`ATTENTIONS`.
        dtype: Type of the hidden states.

    Returns:
        Flash attention takes ``seen`` itself, by which it leaves the padding out; the others add a mask to their scores
        ``[B, 1, P, P]``, zero where a position is seen and the type's least number elsewhere.
    """
    if "flash" in attention:
        return seen
    longest = seen.shape[1]
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    mask = mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None, None, :]
    return mask.expand(-1, 1, longest, longest)


def check_attention(tower: Any, device: str) -> None:
    """Refuse an attention whose kernel cannot compute in the type at hand.

    Args:
        tower: The audio tower.
        device: Type of its device.

    Raises:
        UserError: Flash attention in float32.
    """
    attention = attention_of(tower)
    low = torch.is_autocast_enabled(device) or tower.dtype in (torch.bfloat16, torch.float16)
    if "flash" in attention and not low:
        raise UserError(
            f"attn_implementation {attention} computes in bfloat16 and float16 only, and the audio tower is in "
            "float32: set attn_implementation to sdpa, or trainer.precision to bf16-mixed"
        )
