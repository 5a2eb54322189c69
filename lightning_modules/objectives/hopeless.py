"""Responses that no weight can correct: the policy that is trained and the one that sampled disagree about them."""

import math

from torch import Tensor


def hopeless(old_logprobs: Tensor, behaviour_logprobs: Tensor, mask: Tensor, bound: float) -> Tensor:
    """Tell which responses are too unlikely, or too likely, to say anything about the policy that is trained.

    The product over its tokens of ``pi_old(o_t) / pi_behaviour(o_t)`` lies above ``bound`` or below ``1 / bound``.

    Args:
        old_logprobs: log pi_old, the policy before the first update on these rollouts ``[B, G, C]``, in nats.
        behaviour_logprobs: Log-probabilities under the policy that sampled ``[B, G, C]``.
        mask: True on sampled tokens ``[B, G, C]``.
        bound: Largest ratio either way, above 1.

    Returns:
        True where a response is hopeless ``[B, G]``.
    """
    ratio = (old_logprobs - behaviour_logprobs).detach().masked_fill(~mask, 0.0).sum(-1)
    return ratio.abs() > math.log(bound)
