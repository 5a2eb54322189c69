"""How students come to their weights, where a configuration makes them and nothing can be handed to them."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Loading:
    """How students are loaded.

    Attributes:
        frozen_in_bfloat16: Weights that are not trained are kept in bfloat16, unless the configuration says otherwise.
        deferred: Weights are read when they are spread over the ranks, each rank its part.
        shapes_of: There are shapes and no values: returns, for what a configuration calls ``weights``, a folder with a
            ``config.json``. None where weights are read.
    """

    frozen_in_bfloat16: bool = False
    deferred: bool = False
    shapes_of: Callable[[str], Path] | None = None


_present: ContextVar[Loading] = ContextVar("loading", default=Loading())  # noqa: B039  (frozen)


def present_loading() -> Loading:
    """Return how students are loaded here."""
    return _present.get()


@contextlib.contextmanager
def loading(
    *,
    frozen_in_bfloat16: bool | None = None,
    deferred: bool | None = None,
    shapes_of: Callable[[str], Path] | None = None,
) -> Iterator[None]:
    """Have students that are made inside loaded otherwise; what is not given stays as it is outside.

    Args:
        frozen_in_bfloat16: As in :class:`Loading`.
        deferred: As in :class:`Loading`.
        shapes_of: As in :class:`Loading`.
    """
    outside = _present.get()
    token = _present.set(
        Loading(
            outside.frozen_in_bfloat16 if frozen_in_bfloat16 is None else frozen_in_bfloat16,
            outside.deferred if deferred is None else deferred,
            shapes_of or outside.shapes_of,
        )
    )
    try:
        yield
    finally:
        _present.reset(token)
