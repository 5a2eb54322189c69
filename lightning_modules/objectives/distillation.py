"""Cross-modal on-policy distillation as pure functions: what a teacher's scores add to the task's advantages."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.objectives.advantages import MeanOverRanks


class TeacherTerm(NamedTuple):
    """What a teacher says of a batch; nothing of it carries a gradient.

    Attributes:
        advantages: ``clip(d_t - mean(d))`` of each token, 0 where the teacher said nothing ``[B, G, C]``.
        kl: Mean of ``log pi_old - log pi_T`` over scored tokens of all ranks: an unbiased estimate of KL(student ||
            teacher) per token, in nats. 0 where nothing was scored.
        clipped: Share of this rank's scored tokens whose difference was clipped.
        tokens: Scored tokens of this rank.
    """

    advantages: Tensor
    kl: Tensor
    clipped: Tensor
    tokens: Tensor


def teacher_term(
    teacher: Tensor, old: Tensor, blind: Tensor | None, limit: float, mean_over_ranks: MeanOverRanks
) -> TeacherTerm:
    """Compare what a teacher thinks of sampled tokens with what the student thought (Lu, 2025; Agarwal et al., 2024).

    ``d_t = log pi_T(o_t | frames, q, o_<t) - log pi_old(o_t | audio, q, o_<t)`` is the negative of KL(student ||
    teacher) in expectation over the student's own tokens, so that a policy gradient with ``d_t`` as advantage lowers
    it (reverse KL of "on-policy distillation", arXiv:2306.13649). The mean over all scored tokens of the batch, of all
    ranks, is a baseline: without it a student far from its teacher is told that each of its tokens is bad.

    Args:
        teacher: log pi_T of each token with the frames, in nats; NaN where the teacher said nothing ``[B, G, C]``.
        old: log pi_old of each token, under the policy that sampled ``[B, G, C]``.
        blind: log pi_T of each token without the frames ``[B, G, C]``: then ``d_t`` is what the frames add, in place of
            what the student lacks.
        limit: Largest ``|d_t - mean(d)|``, in nats.
        mean_over_ranks: Averages a tensor over all ranks.
    """
    with torch.no_grad():
        gap = teacher - old
        difference = gap if blind is None else teacher - blind
        scored = ~difference.isnan()
        sums = torch.stack([difference.nansum(), gap.nansum(), scored.sum().to(gap)])
        mean, kept, count = mean_over_ranks(sums)
        count = count.clamp(min=1e-6)  # ranks that scored nothing give 0 in all
        centred = (difference - mean / count).masked_fill(~scored, 0.0)
        tokens = scored.sum()
        return TeacherTerm(
            advantages=centred.clamp(-limit, limit),
            kl=-kept / count,
            clipped=(centred.abs() > limit).sum() / tokens.clamp(min=1),
            tokens=tokens.to(gap),
        )


def decayed(weight: float, step: int, decay_steps: int | None) -> float:
    """Return the teacher's weight at an optimizer step: constant, or falling in a line to 0.

    Args:
        weight: The weight at the first step.
        step: Optimizer steps taken.
        decay_steps: Steps after which it is 0; None keeps it.
    """
    return weight if decay_steps is None else weight * max(0.0, 1.0 - step / decay_steps)
