"""Looks on while a step runs: every operation, its operands and its result."""

from collections.abc import Callable
from typing import Any

from torch.distributed.tensor import DTensor
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from planning.collectives import Collectives
from planning.memory import Account
from planning.torch_internals import (
    CPU_ATTENTION,
    CPU_ATTENTION_BACKWARD,
    READS_A_VALUE,
    TorchDispatchMode,
    overloads_of,
)

_FORMULAS: dict[Any, Callable[..., int]] = flop_registry | {
    CPU_ATTENTION: sdpa_flop,
    CPU_ATTENTION_BACKWARD: sdpa_backward_flop,
}


class Onlooker(TorchDispatchMode):
    """Keeps account of memory, arithmetic, communication and of values that are waited for.

    Attributes:
        account: Of memory.
        collectives: Of communication.
        flops: Floating-point operations of matrix products, attention and convolutions, by phase.
        reads: How often a value was read from the device.
        without_values: Whether tensors have none; what is read is 1 then.
    """

    def __init__(self, account: Account, without_values: bool = True) -> None:
        """Begin at nothing.

        Args:
            account: Of memory.
            without_values: Whether tensors have no values.
        """
        super().__init__()
        self.account = account
        self.collectives = Collectives()
        self.flops: dict[str, int] = {}
        self.reads = 0
        self.without_values = without_values
        self._unseen = 0

    def not_seen(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method that is not looked at, such as torch's own thinking about the shapes of shared weights."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self._unseen += 1
            try:
                return method(*args, **kwargs)
            finally:
                self._unseen -= 1

        return run

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and look at it."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its parts are seen
        if func is READS_A_VALUE and self.without_values and not has_value(args[0]):
            self.reads += 1
            return 1.0 if args[0].dtype.is_floating_point else 1
        result = func(*args, **(kwargs or {}))
        if self._unseen:
            return result
        self.account.see(result)
        if self.account.phase != "loading":
            self.collectives.see(func, (args, kwargs))
        formula = _FORMULAS.get(overloads_of(func))
        if formula is not None:
            found = formula(*args, **(kwargs or {}), out_val=result)
            self.flops[self.account.phase] = self.flops.get(self.account.phase, 0) + int(found)
        return result


def has_value(tensor: Any) -> bool:
    """Tell whether a tensor's value is known without waiting for a device, as that of a step counter is."""
    return getattr(tensor, "constant", tensor) is not None
