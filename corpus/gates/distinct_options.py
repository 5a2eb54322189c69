"""The options are different ones."""

from datamodules.reading.annotations import same_text
from records.records import Question


def repeated_option(question: Question) -> str:
    """Return why a question's options are not distinct, or nothing where they are.

    Options that differ in capitals, space, Unicode form, a leading article or a full stop are the same.

    Args:
        question: The question.
    """
    seen: dict[str, str] = {}
    for option in question.options:
        plain = _plain(option)
        if not plain:
            return f"{option!r} says nothing"
        if plain in seen:
            return f"{option!r} is {seen[plain]!r} once more"
        seen[plain] = option
    return ""


def _plain(option: str) -> str:
    words = same_text(option).strip(" .,;:!?\"'").split(" ")
    return " ".join(words[1:] if words[0] in ("a", "an", "the") and len(words) > 1 else words)
