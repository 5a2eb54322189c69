"""One prompt, G continuations, one sequence: attention in which the prompt is computed once.

A group is packed as ``[prompt | completion 1 | ... | completion G]``. The prompt attends to itself causally; each
completion attends to the prompt and, causally, to itself. Position ids restart after the prompt, so every completion
sees exactly what it would see alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "shared_prompt"
"""Name under which the attention is registered with transformers."""


@dataclass(frozen=True)
class SharedPromptLayout:
    """Where everything is in a packed batch.

    Attributes:
        prompt: P, padded prompt tokens.
        group: G, completions of each prompt.
        completion: C, padded completion tokens.
        mask: True where a completion token may look, over ``[prompt | own tokens]``: ``[B * G, 1, C, P + C]``.
    """

    prompt: int
    group: int
    completion: int
    mask: Tensor


@dataclass(frozen=True)
class PackedGroups:
    """A batch of groups as the language model takes it.

    Attributes:
        ids: Token ids ``[B, P + G * C]``.
        positions: Position ids ``[B, P + G * C]``.
        predictors: For each completion token the row of the flattened batch whose hidden state predicts it: the
            prompt's last token for the first, the token before for the others ``[B, G, C]``.
        layout: What the attention needs to know.
    """

    ids: Tensor
    positions: Tensor
    predictors: Tensor
    layout: SharedPromptLayout


def pack_groups(prompt_ids: Tensor, prompt_lengths: Tensor, completion_ids: Tensor) -> PackedGroups:
    """Pack prompts and their completions.

    Args:
        prompt_ids: ``[B, P]``, right-padded.
        prompt_lengths: ``[B]``.
        completion_ids: ``[B, G, C]``, right-padded.

    Returns:
        The packed batch.
    """
    (batch, prompt), (_, group, completion) = prompt_ids.shape, completion_ids.shape
    device = prompt_ids.device
    length = prompt + group * completion
    steps = torch.arange(completion, device=device)
    ids = torch.cat([prompt_ids, completion_ids.reshape(batch, -1)], 1)
    after = prompt_lengths[:, None] + steps  # [B, C]
    positions = torch.cat(
        [torch.arange(prompt, device=device).expand(batch, -1), after.repeat(1, group)],
        1,
    )
    in_prompt = torch.arange(prompt, device=device) < prompt_lengths[:, None]
    mask = torch.cat(
        [
            in_prompt[:, None, :].expand(-1, completion, -1),
            (steps[:, None] >= steps).expand(batch, -1, -1),
        ],
        -1,
    ).repeat_interleave(group, 0)[:, None]
    starts = torch.arange(batch, device=device)[:, None] * length  # row of each sequence's first token
    first = (starts + prompt_lengths[:, None] - 1)[..., None].expand(-1, group, 1)
    rest = starts[..., None] + prompt + torch.arange(group, device=device)[:, None] * completion + steps[:-1]
    predictors = torch.cat([first, rest.expand(batch, group, -1)], -1)
    return PackedGroups(ids, positions, predictors, SharedPromptLayout(prompt, group, completion, mask))


def shared_prompt_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    shared_prompt: SharedPromptLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over packed groups as two calls without a dense mask over the whole sequence.

    Without a layout it is transformers' own SDPA attention, so generation and the plain forward work as ever.

    Args:
        module: The attention layer.
        query: ``[B, heads, P + G * C, d]``.
        key: ``[B, key heads, P + G * C, d]``.
        value: As ``key``.
        attention_mask: Used only without a layout.
        scaling: Multiplies the scores.
        dropout: Dropout probability of the attention weights.
        shared_prompt: Where the prompt and the completions are.
        **kwargs: Passed on without a layout.

    Returns:
        ``[B, P + G * C, heads, d]`` and None for the weights.
    """
    if shared_prompt is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    layout = shared_prompt
    attend: Callable[..., Tensor] = nn.functional.scaled_dot_product_attention
    prompt, group, completion = layout.prompt, layout.group, layout.completion
    batch, _, _, width = query.shape
    settings = {"scale": scaling, "dropout_p": dropout, "enable_gqa": query.shape[1] != key.shape[1]}

    def of_prompt(x: Tensor) -> Tensor:
        return x[:, :, :prompt]

    def of_completions(x: Tensor) -> Tensor:  # [B, h, P + G C, d] -> [B G, h, C, d]
        heads = x.shape[1]
        x = x[:, :, prompt:].reshape(batch, heads, group, completion, width)
        return x.transpose(1, 2).reshape(batch * group, heads, completion, width)

    def with_prompt(x: Tensor) -> Tensor:  # [B, h, P + G C, d] -> [B G, h, P + C, d]
        heads = x.shape[1]
        shared = of_prompt(x)[:, None].expand(-1, group, -1, -1, -1).reshape(batch * group, heads, prompt, width)
        return torch.cat([shared, of_completions(x)], 2)

    asked = attend(of_prompt(query), of_prompt(key), of_prompt(value), is_causal=True, **settings)
    answered = attend(of_completions(query), with_prompt(key), with_prompt(value), attn_mask=layout.mask, **settings)
    heads = query.shape[1]
    answered = answered.reshape(batch, group, heads, completion, width).transpose(1, 2)
    answered = answered.reshape(batch, heads, group * completion, width)
    return torch.cat([asked, answered], 2).transpose(1, 2), None


AttentionInterface.register(ATTENTION, shared_prompt_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
