"""A class whose ``__init__`` takes the fields of a dataclass, each by its name."""

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

P = ParamSpec("P")


def takes(settings: Callable[P, object]) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Let type checkers see that an ``__init__`` takes what a dataclass of settings takes; it stays as it is.

    So it is used::

        @takes(GRPOSettings)
        def __init__(self, *weights: Any, **settings: Any) -> None:
            super().__init__(GRPOSettings(*weights, **settings))

    So the settings of a class, those of its bases included, are written once: with type, default and text in the
    dataclass. jsonargparse follows the call, by which configurations and ``--help`` have each of them under its name.

    Args:
        settings: The dataclass.
    """

    def same(init: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        return init

    return same
