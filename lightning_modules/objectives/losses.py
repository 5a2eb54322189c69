"""Eq. 1 and Eq. 2 of the paper as pure functions on per-token log-probabilities."""

from typing import NamedTuple

import torch
from torch import Tensor


def sft_loss(logprobs: Tensor, mask: Tensor, tokens: Tensor | float | None = None) -> Tensor:
    """Negative log-likelihood of the traces' tokens (paper, Eq. 1), averaged over tokens.

    Args:
        logprobs: Log-probability of each target token ``[B, G, C]``, in nats.
        mask: True on the trace's tokens; prompt and audio are no part of it ``[B, G, C]``.
        tokens: What to divide the sum by; the number of True entries unless given (several ranks share one).

    Returns:
        A scalar.
    """
    total = -(logprobs * mask).sum()
    return total / (mask.sum() if tokens is None else tokens)


class GRPOTerms(NamedTuple):
    """The objective and what is worth watching about it; all but ``loss`` carry no gradient.

    Attributes:
        loss: Scalar to minimise, the negative of Eq. 2.
        kl: Mean over responses of the mean over tokens of the KL estimate, in nats.
        clip_ratio: Share of tokens whose ratio was clipped to the advantage's disadvantage.
        ratio_max: Largest probability ratio to the old policy.
    """

    loss: Tensor
    kl: Tensor
    clip_ratio: Tensor
    ratio_max: Tensor


def kl_k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || reference): ``exp(d) - d - 1`` with ``d = log reference - log policy``.

    The k3 estimator of J. Schulman ("Approximating KL divergence", 2020): unbiased for samples of the policy, never
    negative.
    """
    difference = reference_logprobs - logprobs
    return difference.exp() - difference - 1


def response_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average over each response's own tokens: ``[B, G, C] -> [B, G]``; zero for an empty response."""
    return (values * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def importance_weights(
    old_logprobs: Tensor, behaviour_logprobs: Tensor, mask: Tensor, limit: float
) -> tuple[Tensor, Tensor]:
    """Weights that correct for rollouts of an earlier policy: ``min(pi_old / pi_behaviour, limit)`` for each token.

    Truncation bounds the variance; it leaves weights below the limit alone.

    Args:
        old_logprobs: log pi_theta_old, the policy before the first update on these rollouts ``[B, G, C]``, in nats.
        behaviour_logprobs: Log-probabilities under the policy that sampled ``[B, G, C]``.
        mask: True on sampled tokens ``[B, G, C]``.
        limit: Largest weight.

    Returns:
        The weights ``[B, G, C]``, 1 outside the mask, and the share of tokens whose weight was truncated.
    """
    weights = (old_logprobs - behaviour_logprobs).detach().masked_fill(~mask, 0.0).exp()
    truncated = ((weights > limit) & mask).sum() / mask.sum().clamp(min=1)
    return torch.where(mask, weights.clamp(max=limit), 1.0), truncated


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    reference_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    epsilon: float = 0.2,
    beta: float = 0.04,
    responses: int | None = None,
    importance: Tensor | None = None,
) -> GRPOTerms:
    """The GRPO objective (paper, Eq. 2) with its sign turned.

    Per token ``min(rho A, clip(rho, 1 - epsilon, 1 + epsilon) A) - beta KL``; averaged over each response's tokens
    (``1/|o_i|``), then over the responses.

    Args:
        logprobs: log pi_theta of each sampled token ``[B, G, C]``, in nats.
        old_logprobs: log pi_theta_old, the policy before the first update on these rollouts ``[B, G, C]``.
        reference_logprobs: log pi_ref, the SFT policy ``[B, G, C]``.
        advantages: One of each response ``[B, G]``.
        mask: True on sampled tokens ``[B, G, C]``.
        epsilon: Clip range of the ratio.
        beta: Weight of the KL term.
        responses: How many responses the batch has in all when this is a micro-batch of it; ``B * G`` unless given.
        importance: Weight of each token's surrogate where the rollouts come from an earlier policy than the old one
            (:func:`importance_weights`); none on-policy ``[B, G, C]``.

    Returns:
        The loss and its parts, see :class:`GRPOTerms`. ``kl`` and ``clip_ratio`` are of this micro-batch.
    """
    ratio = (logprobs - old_logprobs).masked_fill(~mask, 0.0).exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    gain = advantages[..., None]
    surrogate = torch.minimum(ratio * gain, clipped * gain)
    if importance is not None:
        surrogate = surrogate * importance
    kl = kl_k3(logprobs, reference_logprobs).masked_fill(~mask, 0.0)
    per_response = response_mean(surrogate - beta * kl, mask)  # Eq. 2: 1/|o_i| sum over t
    loss = -per_response.sum() / (responses or per_response.numel())  # Eq. 2: 1/G sum over i, mean over questions
    with torch.no_grad():
        hurt = (clipped * gain < ratio * gain) & mask
        return GRPOTerms(
            loss=loss,
            kl=response_mean(kl, mask).mean(),
            clip_ratio=hurt.sum() / mask.sum().clamp(min=1),
            ratio_max=ratio.max(),
        )
