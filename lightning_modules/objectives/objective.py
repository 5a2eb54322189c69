"""What is maximised: a policy term, a KL term and an entropy bonus, averaged over tokens; by default Eq. 2."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.objectives.advantages import Advantages, GroupNormalised
from lightning_modules.objectives.averages import Average, Counts, ResponseMean, response_mean
from lightning_modules.objectives.importance import Importance, TokenTruncation
from lightning_modules.objectives.kl import K3, KL
from lightning_modules.objectives.surrogates import ClippedRatio, PolicyTerm


class ObjectiveTerms(NamedTuple):
    """The objective and what is worth watching about it; all but ``loss`` carry no gradient.

    Attributes:
        loss: Scalar to minimise, the negative of the objective.
        kl: Mean over responses of the mean over tokens of the KL estimate, in nats.
        clip_ratio: Share of tokens whose ratio was clipped to the advantage's disadvantage.
        ratio_max: Largest probability ratio to the old policy.
    """

    loss: Tensor
    kl: Tensor
    clip_ratio: Tensor
    ratio_max: Tensor


class Policies(NamedTuple):
    """What each policy says of the sampled tokens ``[B, G, C]``, in nats.

    Attributes:
        logprobs: log pi_theta.
        old: log pi_theta_old, the policy before the first update on these rollouts.
        reference: log pi_ref, the SFT policy; None where nothing is compared with it.
        entropy: Entropy of the distribution that each token was drawn from, with its gradient where there is a bonus.
    """

    logprobs: Tensor
    old: Tensor
    reference: Tensor | None = None
    entropy: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """The parts of the objective; each can be replaced by ``class_path``.

    Attributes:
        policy: What is gained by making a token likelier: ClippedRatio (GRPO, and DAPO's clip-higher), GSPO, CISPO or
            SAPO of ``lightning_modules.objectives``.
        average: How tokens are averaged: ResponseMean (Eq. 2), TokenMean, GroupTokenMean (DAPO) or ConstantLength (Dr.
            GRPO).
        advantages: How rewards become advantages: GroupNormalised (GRPO), GroupCentred (Dr. GRPO) or GDPO.
        reward_weights: How much rewards count, by their names; those not named count 1.
        kl: Estimator of the KL term, and whether it is part of the loss or of the reward: K1, K2 or K3.
        entropy: Weight of the policy's entropy, a bonus. 0 leaves it out and saves its gradient.
        mask_truncated: Learn nothing from completions that were cut at the token limit (DAPO's overlong filtering);
            they are rewarded and compared as ever.
        importance: How much tokens count that an earlier policy sampled, or a server with other numbers:
            TokenTruncation, TokenMask, SequenceTruncation or SequenceMask.
    """

    policy: PolicyTerm = field(default_factory=ClippedRatio)
    average: Average = field(default_factory=ResponseMean)
    advantages: Advantages = field(default_factory=GroupNormalised)
    reward_weights: Mapping[str, float] = field(default_factory=dict)
    kl: KL = field(default_factory=K3)
    entropy: float = 0.0
    mask_truncated: bool = False
    importance: Importance = field(default_factory=TokenTruncation)

    def terms(
        self,
        policies: Policies,
        advantages: Tensor,
        mask: Tensor,
        beta: float,
        counts: Counts | None = None,
        importance: Tensor | None = None,
    ) -> ObjectiveTerms:
        """Average ``importance * policy term - beta KL + entropy * H`` over the tokens, and turn the sign.

        Args:
            policies: What each policy says of the tokens.
            advantages: One of each response ``[B, G]`` or of each token ``[B, G, C]``.
            mask: True on tokens that count ``[B, G, C]``.
            beta: Weight of the KL term.
            counts: What the batch holds in all, when this is a micro-batch of it.
            importance: Weight of each token's policy term ``[B, G, C]``; none on-policy.

        Returns:
            The loss and its parts; those beside the loss are of this micro-batch.
        """
        gain = advantages if advantages.ndim == mask.ndim else advantages[..., None]
        surrogate = self.policy(policies.logprobs, policies.old, gain, mask)
        values = surrogate.gain if importance is None else surrogate.gain * importance
        reference = policies.logprobs.detach() if policies.reference is None else policies.reference
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.kl.in_reward):
            kl = self.kl(policies.logprobs, reference).masked_fill(~mask, 0.0)
        if not self.kl.in_reward:
            values = values - beta * kl
        if self.entropy and policies.entropy is not None:
            values = values + self.entropy * policies.entropy
        counts = counts or Counts(mask.shape[0] * mask.shape[1], mask.sum().clamp(min=1))
        loss = -self.average(values, mask, counts)
        with torch.no_grad():
            return ObjectiveTerms(
                loss=loss,
                kl=response_mean(kl, mask).mean(),
                clip_ratio=(surrogate.clipped & mask).sum() / mask.sum().clamp(min=1),
                ratio_max=surrogate.ratio.max(),
            )
