"""What is in memory when, told by the life of each storage: an account that is read after the step is over."""

import contextlib
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from planning.torch_internals import local_tensors, storage_key, tree_iter

GATHERED, ELSEWHERE = "gathered weights", "main memory"

KINDS = ("weights", "reference", GATHERED, "gradients", "optimizer state", "batch", "activations", "temporary")
"""What memory is used for: gathered are weights that ranks share, while one of them has them whole; activations are
what a forward pass leaves for its backward pass."""


@dataclass
class Peak:
    """The moment at which most memory was in use.

    Attributes:
        bytes: How much it was.
        kinds: Of that, bytes by kind.
        phase: What was under way.
        phases: The most that was in use in each phase.
        elsewhere: The most that was in main memory in place of the device's, at any time.
    """

    bytes: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    phase: str = ""
    phases: dict[str, int] = field(default_factory=dict)
    elsewhere: int = 0


@dataclass
class _Event:
    storage: int
    change: int


class Account:
    """Each storage's bytes from the moment it is first seen until nobody holds it; views count once.

    Allocators give out whole blocks, so sizes are rounded up to ``block`` bytes.
    """

    def __init__(self, block: int = 1) -> None:
        """Begin empty.

        Args:
            block: Bytes that the device's allocator rounds up to.
        """
        self.block = block
        self.phase = "loading"
        self._events: list[_Event | str] = []
        self._sizes: dict[int, int] = {}
        self._numbers: dict[int, int] = {}
        self._born: dict[int, str] = {}
        self._labels: dict[int, str] = {}
        self._count = 0

    def see(self, found: Any) -> None:
        """Take note of the tensors in anything."""
        for tensor in tree_iter(found):
            if isinstance(tensor, Tensor):
                for part in local_tensors(tensor):
                    self._note(part.untyped_storage())

    def label(self, tensors: Iterable[Tensor | None], kind: str) -> None:
        """Say what tensors are for, from their beginning on."""
        for tensor in tensors:
            for part in () if tensor is None else local_tensors(tensor):
                self._note(part.untyped_storage())
                self._labels[self._numbers[storage_key(part.untyped_storage())]] = kind

    def begin(self, phase: str) -> None:
        """Say what is under way from now on: ``forward``, ``backward``, ``optimizer``, ``loading``."""
        self.phase = phase
        self._events.append(phase)

    def resized(self, storage: Any) -> None:
        """Take note of a storage that has another size now."""
        self._note(storage)
        self._labels.setdefault(self._numbers[storage_key(storage)], GATHERED)

    def peak(self) -> Peak:
        """Replay the account and return its peak; what came before the first phase but ``loading`` does not count."""
        kinds = self._kinds()
        now: dict[str, int] = defaultdict(int)
        total, found, phase = 0, Peak(), "loading"
        for event in self._events:
            if isinstance(event, str):
                phase = event
            else:
                kind = kinds[event.storage]
                now[kind] += event.change
                total += event.change if kind != ELSEWHERE else 0
                found.elsewhere = max(found.elsewhere, now[ELSEWHERE])
            if phase == "loading":
                continue
            found.phases[phase] = max(found.phases.get(phase, 0), total)
            if total > found.bytes:
                found.bytes, found.phase = total, phase
                found.kinds = {kind: now[kind] for kind in KINDS if now[kind]}
        return found

    def _kinds(self) -> dict[int, str]:
        """Return each storage's kind: as it was labelled, else by the phases of its life."""
        kinds, left = dict(self._labels), {"forward": "activations", "backward": "gradients"}
        alive: set[int] = set()
        for event in self._events:
            if isinstance(event, str):
                if event == "backward":
                    for storage in alive:
                        kinds.setdefault(storage, left.get(self._born[storage], "batch"))
            elif event.change > 0:
                alive.add(event.storage)
            elif event.storage in alive:
                alive.discard(event.storage)
        default = {"loading": "batch"}
        return {storage: kinds.get(storage, default.get(born, "temporary")) for storage, born in self._born.items()}

    def _note(self, storage: Any) -> None:
        key = storage_key(storage)
        size = -(-storage.nbytes() // self.block) * self.block
        number = self._numbers.get(key)
        if number is None:
            self._count += 1
            number = self._numbers[key] = self._count
            self._born[number] = self.phase
            self._sizes[number] = 0
            weakref.finalize(storage, self._gone, key, number)
        if change := size - self._sizes[number]:
            self._sizes[number] = size
            self._events.append(_Event(number, change))

    def _gone(self, key: int, number: int) -> None:
        if self._numbers.get(key) == number:
            del self._numbers[key]
        if size := self._sizes.pop(number, 0):
            self._events.append(_Event(number, -size))


@contextlib.contextmanager
def resizing_seen(account: Account) -> Iterator[None]:
    """Let an account see storages that are resized: sharded weights come and go so, past the dispatcher."""
    original = torch.UntypedStorage.resize_

    def resize_(storage: Any, size: int) -> Any:
        result = original(storage, size)
        account.resized(storage)
        return result

    torch.UntypedStorage.resize_ = resize_  # type: ignore
    try:
        yield
    finally:
        torch.UntypedStorage.resize_ = original  # type: ignore
