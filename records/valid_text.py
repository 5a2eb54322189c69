r"""Text that every file, tokenizer and server takes: JSON may hold half a character (``\ud83d``), which none does."""

import re
from typing import TypeVar

T = TypeVar("T")

_HALF = re.compile(r"[\ud800-\udfff]")


def valid_text(text: str) -> str:
    r"""Return a text with U+FFFD for each half of a character; two halves that belong together are joined.

    Args:
        text: May contain surrogates, for example from an emoji that was cut in two (``\ud83d``).
    """
    if not _HALF.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def valid_texts(value: T) -> T:
    """Return a value as JSON has them with :func:`valid_text` of each text in it; one without fault is returned as is.

    Args:
        value: Text, number, null, or lists and objects of these.
    """
    changed: object = value
    if isinstance(value, str):
        changed = valid_text(value)
    elif isinstance(value, list):
        items = [valid_texts(item) for item in value]
        changed = items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    elif isinstance(value, dict):
        pairs = {valid_text(key): valid_texts(item) for key, item in value.items()}
        same = all(new == old and pairs[new] is value[old] for new, old in zip(pairs, value, strict=False))
        changed = value if same and len(pairs) == len(value) else pairs
    return changed  # type: ignore[return-value]
