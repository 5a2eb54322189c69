"""What ranks send each other in a step."""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from planning.torch_internals import name_of, tree_iter

_KINDS = {
    "_allgather_base_": "all-gather",
    "allgather_": "all-gather",
    "allgather_into_tensor_coalesced_": "all-gather",
    "_reduce_scatter_base_": "reduce-scatter",
    "reduce_scatter_": "reduce-scatter",
    "allreduce_": "all-reduce",
    "allreduce_coalesced_": "all-reduce",
    "broadcast_": "broadcast",
}


class Collectives:
    """Counts collective operations and the bytes of the whole tensors they are about."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self.bytes: dict[str, int] = defaultdict(int)
        self.count: dict[str, int] = defaultdict(int)

    def see(self, operation: Any, arguments: Any) -> None:
        """Take note of an operation of the dispatcher, if it is a collective one.

        Args:
            operation: The operation.
            arguments: Its arguments.
        """
        if operation.namespace != "c10d":
            return
        kind = _KINDS.get(name_of(operation).partition("::")[2])
        sizes = list(_sizes(arguments))
        if kind is not None and sizes:
            self.bytes[kind] += max(sizes)  # of an all-gather's result, of what is reduced
            self.count[kind] += 1

    def shared(self, ranks: int) -> float:
        """Return the bytes that a rank sends in rings to gather weights and to spread gradients.

        Args:
            ranks: Ranks that share the weights.
        """
        return (ranks - 1) / ranks * sum(size for kind, size in self.bytes.items() if kind != "all-reduce")

    def summed(self, copies: int) -> float:
        """Return the bytes that a rank sends in rings to sum what each copy of the weights has found, twice each.

        Args:
            copies: Copies of the weights.
        """
        return 2 * (copies - 1) / copies * self.bytes.get("all-reduce", 0)


def _sizes(arguments: Any) -> Iterator[int]:
    for tensor in tree_iter(arguments):
        if isinstance(tensor, Tensor):
            yield math.prod(tensor.shape) * tensor.element_size()
