"""Rewards that are given to all completions of a batch together, and what they may know of it: the sound, too."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from datamodules.batching.batch import AudioQABatch


class BatchReward(ABC):
    """A reward of all completions of a batch: of models that judge them, or that compares those of a question.

    Each rank is given its own share of the batch and grades it alone: nothing in it may wait for another rank.

    Attributes:
        name: Under which its mean is logged.
        metrics: What else is logged of the last batch, by full names; the same names at each batch and on each rank.
    """

    name: str
    metrics: Mapping[str, float] = {}

    @abstractmethod
    def grade(self, batch: AudioQABatch) -> Tensor:
        """Grade a batch.

        Args:
            batch: Questions, the samples of their clips (``waveforms``, mono float32 at 16 kHz), labels, completions.

        Returns:
            The rewards ``[B, G]``, finite, without a gradient.
        """

    def prepare(self, device: torch.device, rank: int, world_size: int) -> None:  # noqa: B027  (may do nothing)
        """Make ready for training, before the first batch: load models, open files. By default nothing.

        Args:
            device: The learner's, on this rank.
            rank: This rank.
            world_size: How many ranks there are.
        """

    def close(self) -> None:  # noqa: B027  (may do nothing)
        """Let go of what :meth:`prepare` took. By default nothing."""
