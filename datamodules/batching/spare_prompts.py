"""Spare questions of a training batch, which are asked only in place of others."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from datamodules.batching.batch import AudioQABatch
from datamodules.batching.collate import Example


@runtime_checkable
class WantsSpares(Protocol):
    """A module whose training batches have spare questions."""

    @property
    def spare_prompts(self) -> int:
        """How many each device's batch has beyond ``data.batch_size``."""


def with_spares(
    examples: Sequence[Example], collate: Callable[[Sequence[Example]], AudioQABatch], spares: int
) -> AudioQABatch:
    """Return examples as a batch that knows which of them are spare.

    Args:
        examples: The examples, spare ones last.
        collate: Makes a batch of them.
        spares: How many are spare.
    """
    batch = collate(examples)
    batch.spares = spares
    return batch
