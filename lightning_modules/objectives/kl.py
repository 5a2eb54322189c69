"""Estimates of KL(policy || reference) from sampled tokens (J. Schulman, "Approximating KL divergence", 2020).

In the loss the estimate is differentiated, in the reward it is not, and what is followed differs (Tang & Munos, 2025,
arXiv:2506.09477; Shah et al., 2025, arXiv:2512.21852): in the reward k1 has the gradient of the KL; in the loss k2 has
it on-policy, k3 that of the KL the other way round, and k1 has none on average.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor


class KL(ABC):
    """How far the policy is from the reference, token by token.

    Attributes:
        in_reward: Subtract ``beta`` times the sum over a response's tokens from its reward, before advantages are made,
            in place of a term in the loss.
    """

    in_reward: bool

    @abstractmethod
    def __call__(self, logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
        """Return the estimate of each token, in the shape of both.

        Args:
            logprobs: Log-probabilities under the policy, in nats.
            reference_logprobs: Under the reference.
        """


@dataclass(frozen=True)
class K1(KL):
    """``log policy - log reference``: unbiased, of either sign; for the reward, as in the loss it pulls nowhere."""

    in_reward: bool = False

    def __call__(self, logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
        """See :class:`KL`."""
        return logprobs - reference_logprobs


@dataclass(frozen=True)
class K2(KL):
    """``(log policy - log reference)^2 / 2``: biased and never negative; on-policy its gradient is that of the KL."""

    in_reward: bool = False

    def __call__(self, logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
        """See :class:`KL`."""
        return (logprobs - reference_logprobs).square() / 2


@dataclass(frozen=True)
class K3(KL):
    """``exp(d) - d - 1`` with ``d = log reference - log policy``: unbiased and never negative (GRPO)."""

    in_reward: bool = False

    def __call__(self, logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
        """See :class:`KL`."""
        difference = reference_logprobs - logprobs
        return difference.exp() - difference - 1
