"""What the optimizer steps on one rollout batch have in common."""

from dataclasses import dataclass, field

from torch import Tensor

from datamodules.batching.batch import AudioQABatch
from lightning_modules.objectives.averages import Counts


@dataclass
class RolloutWork:
    """What the optimizer steps on one rollout batch have in common; lists go by micro-batch.

    Attributes:
        micro_batches: Questions with their rollouts.
        shares: Part of the batch's questions that each has.
        advantages: Advantages of its completions ``[b, G]``, or of their tokens ``[b, G, C]``.
        audio: Its audio where the tower is frozen, encoded once.
        reference: Log-probabilities under the SFT policy ``[b, G, C]``; None where the KL term is off.
        counts: What the whole batch holds.
        old: Log-probabilities under the policy before the first step ``[b, G, C]``, which the first step adds.
    """

    micro_batches: list[AudioQABatch]
    shares: list[float]
    advantages: list[Tensor]
    audio: list[Tensor | None]
    reference: list[Tensor | None]
    counts: Counts
    old: list[Tensor] = field(default_factory=list)
