"""The order of training, in which a resumed run goes on where the interrupted one stood."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from lightning.pytorch import Trainer

from datamodules.batching.curriculum import Curriculum
from datamodules.batching.items import Item
from datamodules.batching.loading import rank_of
from datamodules.batching.resume_point import ResumePoint, fingerprint, state_of
from datamodules.batching.sampler import TrainBatchSampler
from datamodules.settings import DataSettings
from runtime.errors import UserError


class TrainingOrder:
    """Which items come into which batch, and where among them training stands.

    Attributes:
        curriculum: Draws the items, set before training begins; by default they come in a random order.
        spares: Further items of each batch of a device, set likewise.

    Args:
        settings: Size and order of batches.
        length: Returns about how many tokens an item has.
    """

    curriculum: Curriculum | None = None
    spares: int = 0

    def __init__(self, settings: DataSettings, length: Callable[[Item], float]) -> None:
        self._settings = settings
        self._length = length
        self._items: Sequence[Item] = ()
        self._sampler: TrainBatchSampler | None = None
        self._resume = ResumePoint()

    def batches(self, items: Sequence[Item], trainer: Trainer | None, data: str) -> TrainBatchSampler:
        """Return this rank's batches, from where training stands.

        Args:
            items: What is trained on, all ranks' together.
            trainer: The trainer.
            data: Class of the DataModule, for messages.

        Raises:
            UserError: There are fewer items than a global batch has, or a checkpoint of other data is resumed.
        """
        settings = self._settings
        rank, world_size = rank_of(trainer)
        batch_size = settings.batch_size + self.spares
        if len(items) < batch_size * world_size:
            raise UserError(
                f"{len(items)} training questions do not fill a batch of {batch_size} on {world_size} "
                "devices: use more questions or lower data.batch_size" + " or model.spare_prompts" * (self.spares > 0)
            )
        begins, self._items = self._sampler is None, items
        self._resume.check(self._fingerprint(trainer), trainer, begins, data)
        self._sampler = TrainBatchSampler(
            len(items),
            batch_size,
            settings.seed,
            rank=rank,
            world_size=world_size,
            position=partial(self._resume.position, trainer),
            lengths=[self._length(item) for item in items],
            pool=settings.length_bucket,
            curriculum=self.curriculum,
            ids=[item.question.id for item in items],
        )
        return self._sampler

    def state(self, trainer: Trainer | None) -> dict[str, Any]:
        """Return what training goes through and which batch is the next; nothing before it begins.

        Args:
            trainer: The trainer.
        """
        if self._sampler is None or trainer is None:
            return {}
        return state_of(trainer, self._sampler.epoch, self._fingerprint(trainer))

    def restore(self, state: dict[str, Any]) -> None:
        """Keep where a checkpoint was, until training is resumed.

        Args:
            state: What :meth:`state` returned.
        """
        self._resume.restored = state or None

    def _fingerprint(self, trainer: Trainer | None) -> dict[str, Any]:
        settings = self._settings
        global_batch = (settings.batch_size + self.spares) * (trainer.world_size if trainer is not None else 1)
        lengths = map(self._length, self._items)
        found = fingerprint(self._items, settings.seed, global_batch, lengths, settings.length_bucket)
        return found | {"curriculum": asdict(self.curriculum.settings) if self.curriculum is not None else None}
