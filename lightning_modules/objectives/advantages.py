"""Group-relative advantages."""

from torch import Tensor


def group_relative_advantages(rewards: Tensor, tolerance: float = 1e-6) -> Tensor:
    """Normalise the rewards of each question's G completions to mean 0 and standard deviation 1 (below Eq. 2).

    The standard deviation is the group's own (divided by G, not G - 1). A group whose rewards are all equal has
    nothing to say and gets zero advantages.

    Args:
        rewards: ``[B, G]``.
        tolerance: Standard deviations up to this count as zero.

    Returns:
        Advantages ``[B, G]``.
    """
    deviation = rewards.std(-1, correction=0, keepdim=True)
    flat = deviation <= tolerance
    centred = rewards - rewards.mean(-1, keepdim=True)
    return (centred / deviation.masked_fill(flat, 1.0)).masked_fill(flat, 0.0)


def frac_reward_zero_std(rewards: Tensor, tolerance: float = 1e-6) -> Tensor:
    """Share of questions whose completions all got the same reward; these contribute no policy gradient.

    Args:
        rewards: ``[B, G]``.
        tolerance: Standard deviations up to this count as zero.

    Returns:
        A scalar between 0 and 1.
    """
    return (rewards.std(-1, correction=0) <= tolerance).float().mean()
