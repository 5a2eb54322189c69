"""One prompt, G continuations, no padding: a whole batch as one row in which each prompt is computed once.

The tokens of B questions are packed as ``[all prompts | all completions]`` without padding. A prompt attends to itself
causally; each completion attends to its own prompt and, causally, to itself, and to nothing else. Position ids restart
after the prompt, so every completion sees exactly what it would see alone. Only the attention itself is padded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from datamodules.batching.host_arrays import to_device_together

ATTENTION = "shared_prompt"
"""Name under which the attention is registered with transformers."""

_NOT_COMPUTED = ("sliding_window", "softcap", "s_aux")
"""Arguments by which layers of transformers ask for a window, capped scores or sinks."""


@dataclass(frozen=True)
class SharedPromptLayout:
    """Where everything is in a packed batch.

    Attributes:
        batch: B, questions.
        prompt: P, tokens of the longest prompt.
        group: G, completions of each prompt.
        completion: C, tokens of the longest completion.
        mask: True where a completion token may look, over ``[prompt | own tokens]``: ``[B * G, 1, C, P + C]``.
        places: Place of each packed token in the padded ``[B * P | B * G * C]``; None where nothing is padded, so that
            both are the same.
    """

    batch: int
    prompt: int
    group: int
    completion: int
    mask: Tensor
    places: Tensor | None


@dataclass(frozen=True)
class PackedGroups:
    """A batch of groups as the language model takes it; N tokens in all, T of them in completions.

    Attributes:
        ids: Token ids ``[1, N]``.
        positions: Position ids ``[1, N]``.
        starts: Where each prompt begins, in main memory ``[B]``; the prompts come first.
        targets: The completion tokens ``[T]``.
        predictors: For each of them the row whose hidden state predicts it: the prompt's last token for the first, the
            token before for the others ``[T]``.
        scored: Where each of them is in the padded completions, flattened ``[T]``.
        layout: What the attention needs to know.
    """

    ids: Tensor
    positions: Tensor
    starts: np.ndarray
    targets: Tensor
    predictors: Tensor
    scored: Tensor
    layout: SharedPromptLayout


def pack_groups(
    prompt_ids: Tensor, prompt_lengths: np.ndarray, completion_ids: Tensor, completion_lengths: np.ndarray
) -> PackedGroups:
    """Pack prompts and their completions; where everything goes is decided in main memory.

    Args:
        prompt_ids: ``[B, P]``, right-padded.
        prompt_lengths: ``[B]``.
        completion_ids: ``[B, G, C]``, right-padded.
        completion_lengths: ``[B, G]``.

    Returns:
        The packed batch.
    """
    device = prompt_ids.device
    completion = max(int(completion_lengths.max()), 1)
    (batch, prompt), (_, group, width) = prompt_ids.shape, completion_ids.shape
    steps = np.arange(width) < completion_lengths[..., None]
    scored, in_completion = np.flatnonzero(steps), steps[..., :completion]
    in_prompt = np.arange(prompt) < prompt_lengths[:, None]
    kept = np.concatenate([in_prompt.ravel(), in_completion.ravel()])
    rows = kept.cumsum() - 1  # packed row of each padded place that is kept
    after = prompt_lengths[:, None, None] + np.arange(completion)
    positions = np.concatenate([np.tile(np.arange(prompt), batch), np.broadcast_to(after, in_completion.shape).ravel()])
    last = rows[np.arange(batch) * prompt + prompt_lengths - 1]
    own = rows[batch * prompt :].reshape(in_completion.shape)
    before = np.concatenate([np.broadcast_to(last[:, None, None], (batch, group, 1)), own[..., :-1]], -1)
    places, at, predictors, scored_at, lengths = to_device_together(
        [np.flatnonzero(kept), positions[kept], before[in_completion], scored, prompt_lengths], device
    )
    ids = torch.cat([prompt_ids.flatten(), completion_ids[..., :completion].flatten()])[places]
    causal = torch.ones(completion, completion, dtype=torch.bool, device=device).tril()
    seen = torch.arange(prompt, device=device) < lengths[:, None]
    mask = torch.cat([seen[:, None, :].expand(-1, completion, -1), causal.expand(batch, -1, -1)], -1)
    layout = SharedPromptLayout(
        batch, prompt, group, completion, mask.repeat_interleave(group, 0)[:, None], None if kept.all() else places
    )
    starts = prompt_lengths.cumsum() - prompt_lengths
    targets = ids[int(prompt_lengths.sum()) :]
    return PackedGroups(ids[None], at[None], starts, targets, predictors, scored_at, layout)


def spread(packed: Tensor, places: Tensor, *shape: int) -> Tensor:
    """Put packed rows into padded ones, the others zero.

    Args:
        packed: ``[N, ...]``.
        places: Where each goes in the padded rows, flattened ``[N]``.
        *shape: The shape of the padded rows.

    Returns:
        ``[*shape, ...]``.
    """
    padded: Tensor = _Pad.apply(packed, places, shape)
    return padded


class _Pad(torch.autograd.Function):
    """Put N packed rows into padded ones; its gradient takes them out again."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, places: Tensor, shape: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(places)
        ctx.dims = len(shape)
        padded = packed.new_zeros(*shape, *packed.shape[1:])
        padded.flatten(0, len(shape) - 1).index_copy_(0, places, packed)
        return padded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return gradient.flatten(0, ctx.dims - 1).index_select(0, ctx.saved_tensors[0]), None, None


class _Unpad(torch.autograd.Function):
    """Take the N packed rows out of M padded ones; its gradient puts them back, zero elsewhere."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.size = padded.shape[0]
        return padded.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        zeros = gradient.new_zeros(ctx.size, *gradient.shape[1:])
        return zeros.index_copy_(0, ctx.saved_tensors[0], gradient), None


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
    """Attention over a packed batch as two calls without a dense mask over the whole row.

    Without a layout it is transformers' own SDPA attention, so generation and the plain forward work as ever.

    Args:
        module: The attention layer.
        query: ``[1, heads, N, d]``.
        key: ``[1, key heads, N, d]``.
        value: As ``key``.
        attention_mask: Used only without a layout.
        scaling: Multiplies the scores.
        dropout: Dropout probability of the attention weights.
        shared_prompt: Where the prompts and the completions are.
        **kwargs: Passed on without a layout; with one, none may change what is attended to.

    Returns:
        ``[1, N, heads, d]`` and None for the weights.

    Raises:
        ValueError: The layer wants something that the two calls do not compute.
    """
    if shared_prompt is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    if unknown := [name for name in _NOT_COMPUTED if kwargs.get(name) is not None]:
        raise ValueError(
            f"{type(module).__name__} attends with {', '.join(unknown)}, which {ATTENTION} does not compute"
        )
    layout = shared_prompt
    attend: Callable[..., Tensor] = nn.functional.scaled_dot_product_attention
    batch, prompt, group, completion = layout.batch, layout.prompt, layout.group, layout.completion
    sizes = [batch * prompt, batch * group * completion]
    heads, width = query.shape[1], query.shape[3]
    settings = {"scale": scaling, "dropout_p": dropout, "enable_gqa": heads != key.shape[1]}

    def parts(x: Tensor) -> tuple[Tensor, Tensor]:  # [1, h, N, d] -> [B, P, h, d] and [B, G, C, h, d]
        rows = x[0].transpose(0, 1)
        if layout.places is not None:
            rows = spread(rows, layout.places, sum(sizes))
        prompts, completions = rows.split(sizes)
        return (
            prompts.reshape(batch, prompt, -1, width),
            completions.reshape(batch, group, completion, -1, width),
        )

    def after_prompt(prompts: Tensor, completions: Tensor) -> Tensor:  # -> [B G, h, P + C, d]
        shared = prompts[:, None].expand(-1, group, -1, -1, -1)
        return torch.cat([shared, completions], 2).flatten(0, 1).transpose(1, 2)

    (asking, answering), (keys, own_keys), (values, own_values) = parts(query), parts(key), parts(value)
    asked = attend(*(x.transpose(1, 2) for x in (asking, keys, values)), is_causal=True, **settings)
    answered = attend(
        answering.flatten(0, 1).transpose(1, 2),
        after_prompt(keys, own_keys),
        after_prompt(values, own_values),
        attn_mask=layout.mask,
        **settings,
    )
    rows = torch.cat([x.transpose(1, 2).reshape(-1, heads, width) for x in (asked, answered)])
    if layout.places is not None:
        rows = _Unpad.apply(rows, layout.places)
    return rows[None], None


AttentionInterface.register(ATTENTION, shared_prompt_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
