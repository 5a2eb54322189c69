"""The processor that a configuration names."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from runtime.errors import UserError


@runtime_checkable
class BringsProcessor(Protocol):
    """A module whose model has a processor of its own: all that a DataModule needs to know of a module."""

    @property
    def processor(self) -> Any:
        """The processor."""


def read_processor(name: str) -> Any:
    """Load a processor.

    Args:
        name: Hub name or folder of the processor (``data.processor``).

    Raises:
        UserError: There is none.
    """
    from transformers import AutoProcessor

    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise UserError(f"data.processor: the folder {name} does not exist")
    try:
        return AutoProcessor.from_pretrained(name)
    except Exception as error:  # a damaged file may raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"data.processor: {name} has no processor to load ({reason})") from None
