"""Rows of annotation files: read them, check them, repair what can be repaired honestly."""

import math
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from datamodules.prompts.questions import LETTERS
from datamodules.reading.annotation_file import read_values
from records.records import RecordError
from records.valid_text import valid_texts

Repair: TypeAlias = tuple[str, str]
"""What was repaired: its kind in a few words, and a sentence."""

_CONTROL_TOKEN = re.compile(r"<\|[^|<>]*\|>")
_SPACE = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\u200b\u2060\ufeff"


class RowError(ValueError):
    """A row of an annotation file cannot be used.

    Attributes:
        kind: What is wrong in a few words, the same for all rows with this fault; counts are kept for each kind.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class AnnotatedQuestion:
    """A row in the terms of all datasets, before its options, answer and clip have been checked.

    Attributes:
        id: Unique within dataset and split.
        media: Where the clip may be, relative to the dataset's folder; the first that exists is used.
        text: The question.
        options: The options as the file has them.
        answer: Index or text of the right option; None where there is no label.
        category: The category that accuracy is reported for.
        metadata: Whatever else the row says.
    """

    id: str
    media: tuple[str, ...]
    text: str
    options: list[Any]
    answer: int | str | float | None
    category: str
    metadata: dict[str, Any] = field(default_factory=dict)


def read_rows(path: Path) -> list[Any]:
    """Read an annotation file: a JSON list, one object a line, or an object with one list of rows.

    Half characters in texts are replaced by U+FFFD.

    Raises:
        RecordError: The file is missing, is none of these, or is empty; the message says what it is.
    """
    try:
        return [valid_texts(row) for row in read_values(path)]
    except RecursionError:
        raise RecordError(f"{path}: a row has lists or objects that are nested too deeply") from None


def take(row: dict[str, Any], key: str, *types: type) -> Any:
    """Return ``row[key]``, which must be of one of ``types``; 3.0 is the whole number 3.

    Raises:
        RowError: The key is missing or its value is of another type.
    """
    if key not in row:
        raise RowError("missing key", f"key {key!r} is missing")
    value = row[key]
    if isinstance(value, float) and value.is_integer() and int in types and float not in types:
        value = int(value)
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        expected = " or ".join(_type_name(kind()) for kind in types)
        raise RowError("wrong type", f"{key!r} must be {expected}, found {_type_name(value)}")
    return value


def take_label(row: dict[str, Any], key: str, *types: type) -> Any:
    """Return ``row[key]`` as :func:`take` does, or None where there is no label: no key, null, NaN or blank text.

    Raises:
        RowError: The value is of another type.
    """
    value = row.get(key)
    if value is None or value != value or (isinstance(value, str) and not stripped(value)):
        return None
    return take(row, key, *types)


def stripped(text: str) -> str:
    """Return a text without space and invisible characters around it."""
    return text.strip(_SPACE)


def same_text(text: str) -> str:
    """Return what texts have in common that differ in capitals, in space or in the form of Unicode only."""
    composed = unicodedata.normalize("NFC", text).casefold()
    return " ".join(unicodedata.normalize("NFC", composed).split())


def check_text(text: str, what: str, place: str = "") -> str:
    """Return the text without space around it.

    Args:
        text: The text.
        what: What it is, for the error.
        place: Which one of several it is, for the error.

    Raises:
        RowError: Nothing remains, or the text contains a control token such as ``<|im_end|>``.
    """
    text = stripped(text)
    if not text:
        raise RowError(f"empty {what}", f"the {what}{place} is empty")
    if token := _CONTROL_TOKEN.search(text):
        raise RowError("control token", f"the {what}{place} contains the control token {token.group()}")
    return text


def without_control_tokens(text: str) -> str:
    """Return a text without control tokens such as ``<|im_end|>``, which would end or fake a turn of the chat."""
    return _CONTROL_TOKEN.sub("", text)


def check_options(
    options: list[Any], answer: int | str | float | None
) -> tuple[tuple[str, ...], int | None, list[Repair]]:
    """Check options and answer, and repair what can be repaired without guessing.

    Numbers become their text. An option that is listed twice (whatever its capitals, spaces or form of Unicode) is kept
    once, at its first place, and the answer follows it.

    Args:
        options: The options as the file has them.
        answer: Index or text of the right option, or None where there is no label.

    Returns:
        The options, the index of the right one, and what was repaired.

    Raises:
        RowError: An option is null or neither text nor number, fewer than two or more than 26 different options remain,
            or the answer is not one of them.
    """
    repaired: list[Repair] = []
    texts = []
    for place, option in enumerate(options):
        if option is None:
            raise RowError("null option", f"option {place} is null")
        if isinstance(option, bool) or not isinstance(option, (str, int, float)):
            raise RowError("wrong type", f"option {place} must be text, found {_type_name(option)}")
        if not isinstance(option, str):
            if not math.isfinite(option):
                raise RowError("wrong type", f"option {place} is {option}")
            repaired.append(("number as text", f"option {place} is the number {option} and was turned into text"))
        texts.append(check_text(str(option), "option", f" {place}"))

    right: str | None = None
    if isinstance(answer, str):
        right = stripped(answer)
    elif isinstance(answer, bool) or (isinstance(answer, float) and not answer.is_integer()):
        raise RowError("answer out of range", f"the answer must be the index of an option, found {answer}")
    elif answer is not None:
        if not 0 <= answer < len(texts):
            raise RowError("answer out of range", f"the answer is option {answer}, but there are {len(texts)} options")
        right = texts[int(answer)]

    kept: dict[str, str] = {}
    for place, text in enumerate(texts):
        if same_text(text) in kept:
            repaired.append(("option listed twice", f"option {place} ({text!r}) is listed twice and was kept once"))
        kept.setdefault(same_text(text), text)
    if len(kept) < 2:
        raise RowError("too few options", f"there must be two different options at least, found {list(kept.values())}")
    if len(kept) > len(LETTERS):
        raise RowError("too many options", f"there may be {len(LETTERS)} options, found {len(kept)}")
    if right is not None and same_text(right) not in kept:
        raise RowError("answer not an option", f"the answer {right!r} is none of the options {texts}")
    index = None if right is None else list(kept).index(same_text(right))
    return tuple(kept.values()), index, repaired


def _type_name(value: Any) -> str:
    names: dict[type, str] = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}
    if isinstance(value, float) and value:
        return f"the number {value}"
    return "null" if value is None else names.get(type(value), type(value).__name__)
