"""Eq. 1 and Eq. 2 of the paper as pure functions on per-token log-probabilities."""

from torch import Tensor

from lightning_modules.objectives.averages import Counts, ResponseMean
from lightning_modules.objectives.kl import K3
from lightning_modules.objectives.objective import Objective, ObjectiveTerms, Policies
from lightning_modules.objectives.surrogates import ClippedRatio


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
) -> ObjectiveTerms:
    """The GRPO objective (paper, Eq. 2) with its sign turned: what :class:`.objective.Objective` is by default.

    Per token ``min(rho A, clip(rho, 1 - epsilon, 1 + epsilon) A) - beta KL``; averaged over each response's tokens
    (``1/|o_i|``), then over the responses.

    Args:
        logprobs: log pi_theta of each sampled token ``[B, G, C]``, in nats.
        old_logprobs: log pi_theta_old, the policy before the first update on these rollouts ``[B, G, C]``.
        reference_logprobs: log pi_ref, the SFT policy ``[B, G, C]``.
        advantages: One of each response ``[B, G]`` or of each token ``[B, G, C]``.
        mask: True on sampled tokens ``[B, G, C]``.
        epsilon: Clip range of the ratio.
        beta: Weight of the KL term.
        responses: How many responses the batch has in all when this is a micro-batch of it; ``B * G`` unless given.
        importance: Weight of each token's surrogate where the rollouts come from an earlier policy than the old one
            (:mod:`.importance`); none on-policy ``[B, G, C]``.

    Returns:
        The loss and its parts. ``kl`` and ``clip_ratio`` are of this micro-batch.
    """
    objective = Objective(policy=ClippedRatio(epsilon), average=ResponseMean(), kl=K3())
    counts = Counts(responses or mask.shape[0] * mask.shape[1])
    policies = Policies(logprobs, old_logprobs, reference_logprobs)
    return objective.terms(policies, advantages, mask, beta, counts, importance)
