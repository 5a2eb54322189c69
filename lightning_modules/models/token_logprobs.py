"""Log-probabilities of chosen tokens without the logits of all rows in memory at once."""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LOGITS_AT_ONCE = {"cpu": 1 << 23, "cuda": 1 << 26}
"""Largest number of logits (rows x vocabulary) that are held at a time, some three times over: 32 MiB in float32 on the
CPU, where they stay near; 256 MiB on a GPU, where a chunk of few rows would wait for the head's weights to be read (by
arithmetic; 430 rows of a vocabulary of 156,032)."""


def head_logprobs(
    head: Any,
    hidden: Tensor,
    targets: Tensor,
    temperature: float,
    entropy: bool,
    reference: bool,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return :func:`token_logprobs` under a model's head, which must be whole in memory.

    Args:
        head: The module that maps hidden states to logits, with an adapter or without.
        hidden: Hidden states ``[N, H]``.
        targets: Token ids ``[N]``.
        temperature: Divides the logits.
        entropy: Compute entropies.
        reference: Leave the adapter out.
        entropy_gradient: Let gradients through the entropies.
    """
    weight: Tensor
    if isinstance(head, LoraLayer):
        weight = head.get_base_layer().weight
        if not reference:
            weight = weight + head.get_delta_weight(head.active_adapters[0])
    else:
        weight = head.weight
    return token_logprobs(hidden, targets, weight, temperature, entropy, entropy_gradient)


def token_logprobs(
    hidden: Tensor,
    targets: Tensor,
    weight: Tensor,
    temperature: float = 1.0,
    entropy: bool = True,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Score chosen tokens from the hidden states that predict them.

    The head runs on chunks of rows. Where a gradient is wanted, that of each hidden state is formed from the same
    logits (it is known up to the factor that arrives in the backward pass); logits are computed a second time only for
    a head that is trained itself.

    Args:
        hidden: Hidden states ``[N, H]``.
        targets: Token ids ``[N]``.
        weight: The head, ``[V, H]``.
        temperature: Divides the logits; the distribution is that of sampling at this temperature.
        entropy: Compute entropies.
        entropy_gradient: Let gradients through the entropies, at the price of a second gradient of each hidden state.

    Returns:
        Log-probabilities ``[N]`` and entropies ``[N]`` in float32, in nats; the entropies carry no gradient unless it
        was asked for, and are zero where they were not asked for themselves.
    """
    compute = torch.get_autocast_dtype(hidden.device.type) if _autocasts(hidden) else hidden.dtype
    scored: tuple[Tensor, Tensor] = _TokenLogprobs.apply(
        hidden.to(compute), weight.to(compute), targets, temperature, entropy or entropy_gradient, entropy_gradient
    )
    return scored


def _autocasts(hidden: Tensor) -> bool:
    return torch.is_autocast_enabled(hidden.device.type)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        entropy: bool,
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        logprobs = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        entropies = torch.zeros_like(logprobs)
        with_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        gradient = torch.empty_like(hidden, dtype=torch.float32) if with_gradient else None
        of_entropy = torch.empty_like(gradient) if gradient is not None and entropy_gradient else None
        for part in _chunks(hidden, weight):
            log_p = _log_softmax(hidden[part], weight, temperature)
            logprobs[part] = log_p.gather(-1, targets[part, None])[:, 0]
            if not entropy and gradient is None:
                continue
            p = log_p.exp()
            if entropy:
                entropies[part] = -torch.linalg.vecdot(p, log_p)
            if of_entropy is not None:
                of_logits = _entropy_to_logits(p, log_p, entropies[part], temperature)
                of_entropy[part] = of_logits.to(weight.dtype) @ weight
            if gradient is not None:
                del log_p
                gradient[part] = _to_logits(p, targets[part], temperature).to(weight.dtype) @ weight
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropies)
        ctx.temperature = temperature
        trained = (hidden, weight) if ctx.needs_input_grad[1] else (None, None)
        ctx.save_for_backward(gradient, of_entropy, targets, *trained)
        ctx.dtype = hidden.dtype
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor, of_entropies: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gradient, of_entropy, targets, hidden, weight = ctx.saved_tensors
        of_hidden = None
        if ctx.needs_input_grad[0]:
            of_hidden = gradient * weights[:, None]
            if of_entropy is not None:
                of_hidden += of_entropy * of_entropies[:, None]
            of_hidden = of_hidden.to(ctx.dtype)
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = torch.zeros_like(weight)
            for part in _chunks(hidden, weight):
                log_p = _log_softmax(hidden[part], weight, ctx.temperature)
                added = None
                if of_entropy is not None:
                    p = log_p.exp()
                    entropies = -torch.linalg.vecdot(p, log_p)
                    added = _entropy_to_logits(p, log_p, entropies, ctx.temperature).mul_(of_entropies[part, None])
                of_logits = _to_logits(log_p.exp_(), targets[part], ctx.temperature).mul_(weights[part, None])
                if added is not None:
                    of_logits += added
                of_weight.addmm_(of_logits.to(weight.dtype).T, hidden[part])
        return of_hidden, of_weight, None, None, None, None


def _chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    at_once = max(1, LOGITS_AT_ONCE.get(hidden.device.type, LOGITS_AT_ONCE["cuda"]) // weight.shape[0])
    return [slice(start, start + at_once) for start in range(0, len(hidden), at_once)]


def _log_softmax(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = nn.functional.linear(hidden, weight).float()
    if temperature != 1.0:
        logits /= temperature
    return logits.log_softmax(-1)


def _to_logits(p: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Turn probabilities into the gradient of the chosen tokens' log-probabilities by the logits, in place."""
    p.neg_().scatter_add_(1, targets[:, None], p.new_ones(len(p), 1))
    return p.div_(temperature) if temperature != 1.0 else p


def _entropy_to_logits(p: Tensor, log_p: Tensor, entropies: Tensor, temperature: float) -> Tensor:
    """Return the gradient of the entropies by the logits: ``-p (log p + H) / temperature``."""
    return ((log_p + entropies[:, None]) * p).div_(-temperature)
