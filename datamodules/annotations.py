"""Rows of annotation files: read them, check them, repair what can be repaired honestly."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from datamodules.prompts import LETTERS
from datamodules.records import RecordError

Repair: TypeAlias = tuple[str, str]
"""What was repaired: its kind in a few words, and a sentence."""

_CONTROL_TOKEN = re.compile(r"<\|[^|<>]*\|>")


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
    """Read an annotation file: a JSON list.

    Raises:
        RecordError: The file is missing, is not UTF-8, is not JSON, is not a list, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RecordError(f"{path}: the annotation file is missing") from None
    except IsADirectoryError:
        raise RecordError(f"{path}: expected an annotation file, found a folder") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not UTF-8 text (byte {error.start})") from None
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"{path}:{error.lineno}:{error.colno}: not JSON ({error.msg})") from None
    if not isinstance(rows, list):
        raise RecordError(f"{path}: expected a JSON list of questions, found {_type_name(rows)}")
    if not rows:
        raise RecordError(f"{path}: there is no question in the file")
    return rows


def take(row: dict[str, Any], key: str, *types: type) -> Any:
    """Return ``row[key]``, which must be of one of ``types``.

    Raises:
        RowError: The key is missing or its value is of another type.
    """
    if key not in row:
        raise RowError("missing key", f"key {key!r} is missing")
    value = row[key]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        expected = " or ".join(_type_name(kind()) for kind in types)
        raise RowError("wrong type", f"{key!r} must be {expected}, found {_type_name(value)}")
    return value


def check_text(text: str, what: str, place: str = "") -> str:
    """Return the text without space around it.

    Args:
        text: The text.
        what: What it is, for the error.
        place: Which one of several it is, for the error.

    Raises:
        RowError: Nothing remains, or the text contains a control token such as ``<|im_end|>``.
    """
    text = text.strip()
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

    Numbers become their text. An option that is listed twice (whatever its capitals) is kept once, at its first place,
    and the answer follows it.

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
        right = answer.strip()
    elif isinstance(answer, bool) or (isinstance(answer, float) and not answer.is_integer()):
        raise RowError("answer out of range", f"the answer must be the index of an option, found {answer}")
    elif answer is not None:
        if not 0 <= answer < len(texts):
            raise RowError("answer out of range", f"the answer is option {answer}, but there are {len(texts)} options")
        right = texts[int(answer)]

    kept: dict[str, str] = {}
    for place, text in enumerate(texts):
        if text.casefold() in kept:
            repaired.append(("option listed twice", f"option {place} ({text!r}) is listed twice and was kept once"))
        kept.setdefault(text.casefold(), text)
    if len(kept) < 2:
        raise RowError("too few options", f"there must be two different options at least, found {list(kept.values())}")
    if len(kept) > len(LETTERS):
        raise RowError("too many options", f"there may be {len(LETTERS)} options, found {len(kept)}")
    if right is not None and right.casefold() not in kept:
        raise RowError("answer not an option", f"the answer {right!r} is none of the options {texts}")
    index = None if right is None else list(kept).index(right.casefold())
    return tuple(kept.values()), index, repaired


def _type_name(value: Any) -> str:
    names: dict[type, str] = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
