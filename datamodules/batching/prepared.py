"""Items that are prepared where they are needed: the one Dataset of all DataModules."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from torch.utils.data import Dataset

Item = TypeVar("Item")
Made = TypeVar("Made")


class Prepared(Dataset[Made], Generic[Item, Made]):
    """Items that are prepared when they are asked for, that is in the DataLoader's workers."""

    def __init__(self, items: Sequence[Item], prepare: Callable[[Item], Made], keep: bool = False) -> None:
        """Make the dataset.

        Args:
            items: The items.
            prepare: Makes of an item what a batch needs of it, such as its decoded clip.
            keep: Keep in memory what was made, where there are few items and no workers.
        """
        self.items = items
        self.prepare = prepare
        self._kept: dict[int, Made] | None = {} if keep else None

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    def __getitem__(self, index: int) -> Made:
        """Return an item as it was prepared."""
        if self._kept is None:
            return self.prepare(self.items[index])
        if index not in self._kept:
            self._kept[index] = self.prepare(self.items[index])
        return self._kept[index]
