"""Group-relative advantages: how much better a response is than the others to the same question."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

MeanOverRanks = Callable[[Tensor], Tensor]
"""Averages a tensor over all ranks."""


class Advantages(ABC):
    """How rewards become advantages."""

    @abstractmethod
    def __call__(self, rewards: Tensor, weights: Tensor, mean_over_ranks: MeanOverRanks) -> Tensor:
        """Compare the completions of each question.

        Args:
            rewards: By each of R reward functions ``[R, B, G]``.
            weights: How much each counts ``[R]``.
            mean_over_ranks: Averages a tensor over all ranks, for what is normalised over the whole batch.

        Returns:
            Advantages ``[B, G]``.
        """

    def dead_groups(self, rewards: Tensor, weights: Tensor) -> Tensor:
        """Return which questions say nothing, since none of their completions is better than the others.

        Args:
            rewards: By each of R reward functions ``[R, B, G]``.
            weights: How much each counts ``[R]``.

        Returns:
            True for those whose advantages are all zero ``[B]``.
        """
        return zero_std(weighted_sum(rewards, weights))


@dataclass(frozen=True)
class GroupNormalised(Advantages):
    """``(r - mean) / std`` of each question's rewards, summed over reward functions before (GRPO; below Eq. 2)."""

    def __call__(self, rewards: Tensor, weights: Tensor, mean_over_ranks: MeanOverRanks) -> Tensor:
        """See :class:`Advantages`."""
        return group_relative_advantages(weighted_sum(rewards, weights))


@dataclass(frozen=True)
class GroupCentred(Advantages):
    """``r - mean``: no standard deviation, which favours questions that are nearly always or never answered.

    Dr. GRPO (Liu et al., 2025, arXiv:2503.20783, section 3.2).
    """

    def __call__(self, rewards: Tensor, weights: Tensor, mean_over_ranks: MeanOverRanks) -> Tensor:
        """See :class:`Advantages`."""
        total = weighted_sum(rewards, weights)
        return total - total.mean(-1, keepdim=True)


@dataclass(frozen=True)
class GDPO(Advantages):
    """Each reward normalised in its group by itself, their weighted sum by its deviation over the batch of all ranks.

    Liu et al., 2026, arXiv:2601.05242. Summed before, rewards (2, 0) and (1, 1) would be the same. The mean
    over the batch, which the paper subtracts too, is 0: that of each group is.
    """

    def __call__(self, rewards: Tensor, weights: Tensor, mean_over_ranks: MeanOverRanks) -> Tensor:
        """See :class:`Advantages`."""
        total = weighted_sum(group_relative_advantages(rewards), weights)
        deviation = mean_over_ranks(total.square().mean()).sqrt()
        return total / deviation.masked_fill(deviation == 0, 1.0)

    def dead_groups(self, rewards: Tensor, weights: Tensor) -> Tensor:
        """See :class:`Advantages`; here rewards that only add up to the same still differ."""
        return zero_std(rewards[weights != 0]).all(0)


def weighted_sum(rewards: Tensor, weights: Tensor) -> Tensor:
    """``sum_k w_k r_k``: ``[R, B, G] -> [B, G]``."""
    return (rewards * weights[:, None, None]).sum(0)


def group_relative_advantages(rewards: Tensor, tolerance: float = 1e-6) -> Tensor:
    """Normalise the rewards of each question's G completions to mean 0 and standard deviation 1 (below Eq. 2).

    The standard deviation is the group's own (divided by G, not G - 1). A group whose rewards are all equal has
    nothing to say and gets zero advantages.

    Args:
        rewards: ``[..., G]``.
        tolerance: Standard deviations up to this count as zero.

    Returns:
        Advantages in the same shape.
    """
    deviation = rewards.std(-1, correction=0, keepdim=True)
    flat = deviation <= tolerance
    centred = rewards - rewards.mean(-1, keepdim=True)
    return (centred / deviation.masked_fill(flat, 1.0)).masked_fill(flat, 0.0)


def zero_std(rewards: Tensor, tolerance: float = 1e-6) -> Tensor:
    """Return the groups whose completions all got the same reward: ``[..., G] -> [...]``.

    Args:
        rewards: ``[..., G]``.
        tolerance: Standard deviations up to this count as zero.
    """
    return rewards.std(-1, correction=0) <= tolerance


def frac_reward_zero_std(rewards: Tensor) -> Tensor:
    """Share of questions whose completions all got the same reward; these contribute no policy gradient.

    Args:
        rewards: ``[B, G]``.

    Returns:
        A scalar between 0 and 1.
    """
    return zero_std(rewards).float().mean()
