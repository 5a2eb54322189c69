"""Weights of tokens that another policy has sampled than the one that is improved on: an earlier one, or a server's.

The server's numbers differ from the trainer's even where the weights are the same (Yao et al., 2025, "Your efficient RL
framework secretly brings you off-policy RL training"), and more so where rollouts are stale.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from runtime.errors import UserError


class Importance(ABC):
    """How much each token's surrogate counts.

    Attributes:
        always: Weight all rollouts, in place of stale ones alone (``max_staleness`` of the rollout callback).
        metric: What the share of those that were held back is logged as.
    """

    always: bool
    metric: ClassVar[str]

    @abstractmethod
    def __call__(self, old_logprobs: Tensor, behaviour_logprobs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compare the old policy with the one that sampled.

        Args:
            old_logprobs: log pi_old, the policy before the first update on these rollouts ``[B, G, C]``, in nats.
            behaviour_logprobs: Log-probabilities under the policy that sampled ``[B, G, C]``.
            mask: True on sampled tokens ``[B, G, C]``.

        Returns:
            The weights ``[B, G, C]``, 1 outside the mask, and the share of tokens or responses that were held back.
        """


def token_weights(old_logprobs: Tensor, behaviour_logprobs: Tensor, mask: Tensor) -> Tensor:
    """``pi_old(o_t) / pi_behaviour(o_t)`` of each token ``[B, G, C]``, 1 outside the mask, without gradient."""
    return (old_logprobs - behaviour_logprobs).detach().masked_fill(~mask, 0.0).exp()


def sequence_weights(old_logprobs: Tensor, behaviour_logprobs: Tensor, mask: Tensor) -> Tensor:
    """``pi_old(o) / pi_behaviour(o)`` of each response ``[B, G, 1]``, the product over its tokens, without gradient."""
    return (old_logprobs - behaviour_logprobs).detach().masked_fill(~mask, 0.0).sum(-1, keepdim=True).exp()


def truncated(weights: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """``min(w, cap)``, and where that is less than w: bounded variance, and a bias towards the policy that sampled."""
    return weights.clamp(max=cap), weights > cap


def masked(weights: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """``w`` between low and high and 0 elsewhere, and where that is: what cannot be trusted says nothing."""
    outside = (weights < low) | (weights > high)
    return weights.masked_fill(outside, 0.0), outside


def share(held: Tensor, of: Tensor) -> Tensor:
    """Return which part of those in ``of`` are in ``held``, both of one shape."""
    return (held & of).sum() / of.sum().clamp(min=1)


@dataclass(frozen=True)
class TokenTruncation(Importance):
    """``min(pi_old / pi_behaviour, cap)`` of each token (truncated importance sampling; Yao et al., 2025).

    Attributes:
        cap: Largest weight.
        always: Weight all rollouts, in place of stale ones alone.
    """

    metric: ClassVar[str] = "importance_truncated"
    cap: float = 2.0
    always: bool = False

    def __post_init__(self) -> None:
        refuse_cap(self.cap)

    def __call__(self, old_logprobs: Tensor, behaviour_logprobs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Importance`."""
        weights, held = truncated(token_weights(old_logprobs, behaviour_logprobs, mask), self.cap)
        return torch.where(mask, weights, 1.0), share(held, mask)


@dataclass(frozen=True)
class TokenMask(Importance):
    """``pi_old / pi_behaviour`` of each token where it is within a range, else 0 (IcePop; Ling Team, 2025).

    Attributes:
        low: Smallest weight that counts.
        high: Largest weight that counts.
        always: Weight all rollouts, in place of stale ones alone.
    """

    metric: ClassVar[str] = "importance_masked"
    low: float = 0.5
    high: float = 2.0
    always: bool = False

    def __post_init__(self) -> None:
        refuse_range(self.low, self.high)

    def __call__(self, old_logprobs: Tensor, behaviour_logprobs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Importance`."""
        weights, held = masked(token_weights(old_logprobs, behaviour_logprobs, mask), self.low, self.high)
        return torch.where(mask, weights, 1.0), share(held, mask)


@dataclass(frozen=True)
class SequenceTruncation(Importance):
    """``min(pi_old(o) / pi_behaviour(o), cap)`` of each response, for all its tokens (Liu, Li et al., 2025).

    "When speed kills stability": the ratio of tokens leaves out that their prefixes have another probability too.

    Attributes:
        cap: Largest weight.
        always: Weight all rollouts, in place of stale ones alone.
    """

    metric: ClassVar[str] = "importance_truncated"
    cap: float = 2.0
    always: bool = False

    def __post_init__(self) -> None:
        refuse_cap(self.cap)

    def __call__(self, old_logprobs: Tensor, behaviour_logprobs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Importance`."""
        weights, held = truncated(sequence_weights(old_logprobs, behaviour_logprobs, mask), self.cap)
        return torch.where(mask, weights, 1.0), share(held[..., 0], mask.any(-1))


@dataclass(frozen=True)
class SequenceMask(Importance):
    """``pi_old(o) / pi_behaviour(o)`` of each response where it is within a range, else 0 (Liu, Li et al., 2025).

    Attributes:
        low: Smallest weight that counts.
        high: Largest weight that counts.
        always: Weight all rollouts, in place of stale ones alone.
    """

    metric: ClassVar[str] = "importance_masked"
    low: float = 0.5
    high: float = 2.0
    always: bool = False

    def __post_init__(self) -> None:
        refuse_range(self.low, self.high)

    def __call__(self, old_logprobs: Tensor, behaviour_logprobs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Importance`."""
        weights, held = masked(sequence_weights(old_logprobs, behaviour_logprobs, mask), self.low, self.high)
        return torch.where(mask, weights, 1.0), share(held[..., 0], mask.any(-1))


def refuse_cap(cap: float) -> None:
    """Refuse a cap that would cut on-policy tokens.

    Raises:
        UserError: It is below 1.
    """
    if cap < 1:
        raise UserError(f"model.objective.importance.cap is {cap}: below 1 it would cut on-policy tokens too")


def refuse_range(low: float, high: float) -> None:
    """Refuse a range that would leave out on-policy tokens.

    Raises:
        UserError: 1 is not inside.
    """
    if not 0 <= low <= 1 <= high:
        raise UserError(
            f"model.objective.importance: low {low} and high {high} must have 1 between them, the weight on-policy"
        )
