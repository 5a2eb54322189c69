"""What is gained by making a token likelier: probability ratios to the old policy, and how far they are trusted."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.objectives.averages import response_mean
from runtime.errors import UserError


class Surrogate(NamedTuple):
    """Each token's part of the objective ``[B, G, C]``; whatever stands outside the mask does not count.

    Attributes:
        gain: What is to be maximised.
        ratio: Probability under the policy over that under the old one, of the token or of its response.
        clipped: True where the ratio was held back.
    """

    gain: Tensor
    ratio: Tensor
    clipped: Tensor


class PolicyTerm(ABC):
    """The policy's term of the objective."""

    @abstractmethod
    def __call__(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> Surrogate:
        """Compare the policy with the old one.

        Args:
            logprobs: log pi_theta of each sampled token ``[B, G, C]``, in nats.
            old_logprobs: log pi_theta_old, the policy before the first update on these rollouts ``[B, G, C]``.
            advantages: One of each response ``[B, G, 1]`` or of each token ``[B, G, C]``.
            mask: True on tokens that count ``[B, G, C]``.
        """


def token_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """``pi_theta(o_t) / pi_old(o_t)`` of each token ``[B, G, C]``, 1 outside the mask."""
    return (logprobs - old_logprobs).masked_fill(~mask, 0.0).exp()


def sequence_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """``(pi_theta(o) / pi_old(o))^(1/|o|)`` of each response ``[B, G]``: the geometric mean of its tokens' ratios."""
    return response_mean((logprobs - old_logprobs).masked_fill(~mask, 0.0), mask).exp()


def pessimistic(ratio: Tensor, low: float, high: float, advantages: Tensor) -> Surrogate:
    """``min(ratio A, clip(ratio, low, high) A)``: no gain from going further than the range (PPO)."""
    free, held = ratio * advantages, ratio.clamp(low, high) * advantages
    return Surrogate(torch.minimum(free, held), ratio, held < free)


@dataclass(frozen=True)
class ClippedRatio(PolicyTerm):
    """``min(rho_t A, clip(rho_t, 1 - epsilon, 1 + epsilon_high) A)`` (GRPO; paper, Eq. 2).

    With ``epsilon_high`` above ``epsilon`` unlikely tokens may become likelier by more: "clip-higher" of DAPO
    (arXiv:2503.14476, section 3.1: 0.2 and 0.28).

    Attributes:
        epsilon: How far below 1 the ratio is followed, and above it unless ``epsilon_high`` is given.
        epsilon_high: How far above 1.
    """

    epsilon: float = 0.2
    epsilon_high: float | None = None

    def __post_init__(self) -> None:
        refuse_negative("ClippedRatio", epsilon=self.epsilon, epsilon_high=self.epsilon_high or 0.0)

    def __call__(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> Surrogate:
        """See :class:`PolicyTerm`."""
        above = self.epsilon if self.epsilon_high is None else self.epsilon_high
        return pessimistic(token_ratio(logprobs, old_logprobs, mask), 1 - self.epsilon, 1 + above, advantages)


@dataclass(frozen=True)
class GSPO(PolicyTerm):
    """``min(s A, clip(s, 1 - left, 1 + right) A)`` with s the ratio of the whole response (Zheng et al., 2025).

    arXiv:2507.18071, Eq. 5 to 7, in the form for tokens (Eq. 13 and 14): ``s_t = sg[s] pi_theta(o_t) /
    sg[pi_theta(o_t)]`` has the value of s, the same gradient where all tokens share an advantage, and takes advantages
    of tokens too.

    Attributes:
        left: How far below 1 the ratio is followed.
        right: How far above it. The ratio of a response stays far closer to 1 than that of a token.
    """

    left: float = 3e-4
    right: float = 4e-4

    def __post_init__(self) -> None:
        refuse_negative("GSPO", left=self.left, right=self.right)

    def __call__(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> Surrogate:
        """See :class:`PolicyTerm`."""
        whole = sequence_ratio(logprobs.detach(), old_logprobs, mask)[..., None]
        ratio = whole * (logprobs - logprobs.detach()).masked_fill(~mask, 0.0).exp()
        return pessimistic(ratio, 1 - self.left, 1 + self.right, advantages)


@dataclass(frozen=True)
class CISPO(PolicyTerm):
    """``sg[clip(rho_t, 1 - is_low, 1 + is_high)] A log pi_theta(o_t)`` (MiniMax-M1, 2025).

    arXiv:2506.13585, Eq. 4 and 5: the ratio is a weight that is bounded, and every token keeps a gradient. Its authors
    average over the tokens of all responses (:class:`~lightning_modules.objectives.averages.TokenMean`) and leave the
    ratio without a lower bound.

    Attributes:
        is_high: How far above 1 the weight may be.
        is_low: How far below 1; from 1 on there is no bound.
    """

    is_high: float = 4.0
    is_low: float = 1.0

    def __post_init__(self) -> None:
        refuse_negative("CISPO", is_high=self.is_high, is_low=self.is_low)

    def __call__(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> Surrogate:
        """See :class:`PolicyTerm`."""
        ratio = token_ratio(logprobs.detach(), old_logprobs, mask)
        weight = ratio.clamp(1 - self.is_low, 1 + self.is_high)
        return Surrogate(weight * advantages * logprobs.masked_fill(~mask, 0.0), ratio, weight != ratio)


@dataclass(frozen=True)
class SAPO(PolicyTerm):
    """``4/tau sigmoid(tau (rho_t - 1)) A``: a soft gate in place of a clip (Gao et al., 2025).

    arXiv:2511.20347. The gate's slope is 1 at the ratio 1 and falls on both sides, faster for tokens that
    are to become less likely. Its authors average as Eq. 2 does.

    Attributes:
        tau_pos: Temperature of tokens with positive advantages.
        tau_neg: That of others.
    """

    tau_pos: float = 1.0
    tau_neg: float = 1.05

    def __post_init__(self) -> None:
        if min(self.tau_pos, self.tau_neg) <= 0:
            raise UserError(f"SAPO: tau_pos {self.tau_pos} and tau_neg {self.tau_neg} must both be above 0")

    def __call__(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> Surrogate:
        """See :class:`PolicyTerm`."""
        ratio = token_ratio(logprobs, old_logprobs, mask)
        tau = torch.full_like(advantages, self.tau_neg).masked_fill(advantages > 0, self.tau_pos)
        gate = 4 / tau * torch.sigmoid(tau * (ratio - 1))
        return Surrogate(gate * advantages, ratio, torch.zeros_like(mask))


def refuse_negative(name: str, **settings: float) -> None:
    """Refuse ranges below 0.

    Args:
        name: Whose they are.
        **settings: The ranges.

    Raises:
        UserError: One is negative.
    """
    for setting, value in settings.items():
        if value < 0:
            raise UserError(f"{name}: {setting} is {value}, and must be at least 0")
