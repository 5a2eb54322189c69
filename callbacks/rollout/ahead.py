"""Rollouts that are drawn while the trainer works on the batch before."""

from collections.abc import Callable
from typing import Any, NamedTuple

from lightning import Trainer

from datamodules.batching.batch import AudioQABatch
from datamodules.batching.sampler import ResumableLoader
from inference.vllm.sampling import CompletionOutput, SamplingParams
from runtime.ahead import Ahead
from runtime.errors import UserError


class Drawn(NamedTuple):
    """Completions that were drawn ahead.

    Attributes:
        samples: ``[B][G]`` completions.
        version: The weights that drew them.
        seconds: How long it took.
        sampling: How they were drawn.
    """

    samples: list[list[CompletionOutput]]
    version: str
    seconds: float
    sampling: list[SamplingParams]


class RolloutsAhead:
    """Rollouts of the next batch, drawn while the present one is trained on."""

    def __init__(self) -> None:
        """Begin with nothing under way."""
        self._work: Ahead[tuple[list[list[CompletionOutput]], str] | None] | None = None
        self._ids: list[str] = []
        self._sampling: list[SamplingParams] = []

    def begin(
        self,
        batch: AudioQABatch,
        sampling: list[SamplingParams],
        draw: Callable[[], tuple[list[list[CompletionOutput]], str] | None],
    ) -> None:
        """Have a batch's completions drawn.

        Args:
            batch: The batch after the present one.
            sampling: How each question's completions are drawn.
            draw: Draws them, and says with which weights; None where no server can.
        """
        self._ids, self._sampling = [question.id for question in batch.questions], sampling
        self._work = Ahead(draw)

    def take(self, batch: AudioQABatch) -> Drawn | None:
        """Wait for what was drawn for a batch; None when nothing was, or for another batch."""
        work, self._work = self._work, None
        if work is None:
            return None
        drawn = work.result()
        if drawn is None or self._ids != [question.id for question in batch.questions]:
            return None
        return Drawn(*drawn, work.seconds, self._sampling)

    def settle(self) -> None:
        """Wait until nothing is under way."""
        if self._work is not None:
            self._work.result()


def look_ahead(trainer: Trainer) -> None:
    """Have the loader of training fetch each batch while the one before is trained.

    Args:
        trainer: The trainer.

    Raises:
        UserError: The loader cannot.
    """
    loader: Any = trainer.train_dataloader
    if not isinstance(loader, ResumableLoader):
        raise UserError(
            "max_staleness 1 needs a loader that knows the next batch, such as "
            "datamodules.batching.sampler.ResumableLoader: use a DataModule of this project, or max_staleness 0"
        )
    loader.look_ahead = True


def next_batch(trainer: Trainer, batch_idx: int, after: int) -> AudioQABatch | None:
    """Return the batch after the present one; None where training ends before it, or the epoch does.

    Args:
        trainer: The trainer, whose loader looks ahead.
        batch_idx: The present batch's place in the epoch.
        after: Optimizer steps taken when the present batch has been trained.
    """
    loader: Any = trainer.train_dataloader
    assert isinstance(loader, ResumableLoader)
    last = batch_idx + 1 >= trainer.num_training_batches or 0 < trainer.max_steps <= after
    upcoming: AudioQABatch | None = loader.upcoming
    return None if last else upcoming
