"""Which question is trained on when: the same on every machine, at every number of ranks, after every restart."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from datamodules.batching.curriculum import Curriculum


@dataclass(frozen=True)
class Position:
    """The next batch of training.

    Attributes:
        epoch: Passes over the data that are behind.
        batch: Batches of this pass that are behind.
    """

    epoch: int = 0
    batch: int = 0


class TrainBatchSampler(Sampler[list[int]]):
    """Batches of a permutation that depends on seed and epoch only.

    Global batch k holds ``batch_size * world_size`` consecutive places of the permutation, of which each rank gets
    ``batch_size`` consecutive ones: two ranks with B and one rank with 2 B see the same global batches. What does not
    fill a global batch at the end is left out in this epoch.
    """

    def __init__(
        self,
        num_items: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], Position] = Position,
        lengths: Sequence[float] | None = None,
        pool: int = 1,
        curriculum: Curriculum | None = None,
        ids: Sequence[str] = (),
    ) -> None:
        """Prepare the batches.

        Args:
            num_items: Number of items.
            batch_size: Items in a batch of one rank.
            seed: Seed of the permutations.
            rank: This process.
            world_size: Number of processes.
            position: Asked, whenever an iteration begins, where it should begin. Several iterations of the same epoch
                do no harm.
            lengths: Length of each item; with a ``pool`` items of similar length come into a batch together.
            pool: Global batches whose items are sorted by length before they are cut into batches. Their order stays
                random, and so does which items are in the pool.
            curriculum: Draws the items of each of its rounds; by default they are those of the permutation.
            ids: Id of each item, for the curriculum.
        """
        self.num_items = num_items
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.position = position
        self.lengths = lengths
        self.pool = pool
        self.curriculum = curriculum
        self.ids = ids
        self.epoch = 0

    def __len__(self) -> int:
        """Return the batches of a whole epoch, wherever the iteration begins."""
        return self.num_items // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Return the batches from the present position to the end of its epoch."""
        position = self.position()  # asked now, not when the first batch is needed
        self.epoch = position.epoch
        if self.curriculum is not None:
            if position.batch == 0:
                self.curriculum.begin_epoch()
            return self._drawn(self.curriculum, position)
        order = permutation(self.num_items, self.seed, position.epoch)
        if self.lengths is not None and self.pool > 1:
            order = by_length(order, self.lengths, self.batch_size * self.world_size, self.pool, self.seed, self.epoch)
        starts = ((batch * self.world_size + self.rank) * self.batch_size for batch in range(position.batch, len(self)))
        return iter([order[start : start + self.batch_size] for start in starts])

    def _drawn(self, curriculum: Curriculum, position: Position) -> Iterator[list[int]]:
        """Draw each round of a curriculum when its first batch is asked for."""
        size, whole = curriculum.settings.every_n_batches, self.batch_size * self.world_size
        number, order = -1, list[int]()
        for batch in range(position.batch, len(self)):
            if batch // size != number:
                number = batch // size
                batches = min(size, len(self) - number * size)
                order = curriculum.draw(self.ids, batches * whole, self.seed, position.epoch, number)
            start = (batch % size) * whole + self.rank * self.batch_size
            yield order[start : start + self.batch_size]


def permutation(num_items: int, seed: int, epoch: int | str) -> list[int]:
    """Return the order in which the items come in an epoch."""
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:7]))
    return torch.randperm(num_items, generator=generator).tolist()


def by_length(
    order: Sequence[int], lengths: Sequence[float], global_batch: int, pool: int, seed: int, epoch: int
) -> list[int]:
    """Bring items of similar length into the same global batch.

    Args:
        order: Items in random order.
        lengths: Length of each item.
        global_batch: Items in a global batch.
        pool: Consecutive global batches whose items are sorted together.
        seed: Seed of the order of the batches within a pool.
        epoch: Likewise.

    Returns:
        The same items. What does not fill a global batch at the end stays there.
    """
    full = len(order) // global_batch * global_batch
    grouped: list[int] = []
    for number, start in enumerate(range(0, full, pool * global_batch)):
        items = sorted(order[start : min(start + pool * global_batch, full)], key=lambda item: lengths[item])
        for batch in permutation(len(items) // global_batch, seed, f"{epoch}/{number}"):
            grouped += items[batch * global_batch : (batch + 1) * global_batch]
    return grouped + list(order[full:])


def eval_share(num_items: int, rank: int = 0, world_size: int = 1) -> range:
    """Return the items that a rank evaluates: each item on exactly one rank, shares differ by one item at most."""
    return range(rank, num_items, world_size)


class ResumableLoader(DataLoader[Any]):
    """A DataLoader that begins where training stopped.

    Its position is kept by the DataModule, which follows the trainer's progress and not the loader's, whose workers run
    ahead of training. Having the two methods tells Lightning that a checkpoint within an epoch can be resumed.

    Attributes:
        look_ahead: Set it before the first batch to have each batch fetched while the one before is trained.
        upcoming: With ``look_ahead``, the batch after the one that was handed out last; None at the end of an epoch.
    """

    look_ahead = False
    upcoming: Any = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Return the batches from where training stands to the end of its epoch."""
        return self._hand_out(super().__iter__())  # the position is asked for now, the first batch when it is needed

    def _hand_out(self, batches: Iterator[Any]) -> Iterator[Any]:
        if not self.look_ahead:
            yield from batches
            return
        ready = next(batches, None)
        while ready is not None:
            self.upcoming = next(batches, None)
            yield ready
            ready = self.upcoming

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the DataModule keeps the position."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Ignore what :meth:`state_dict` returned."""
