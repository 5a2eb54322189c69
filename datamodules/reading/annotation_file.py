"""What an annotation file may be: a JSON list, one object a line, or an object with one list of rows.

UTF-8 and, with or without a byte order mark, UTF-16 and UTF-32. Anything else is named as what it is.
"""

import json
import reprlib
from pathlib import Path
from typing import Any, NoReturn

from records.records import RecordError

_WAY_OUT = "needed is a JSON list of questions, one question as a JSON object a line, or an object with one such list"
_LINES = (".jsonl", ".ndjson")
_MOST_DIGITS = 300
"""Digits of a number that is finite as a float; of one with more only the size is kept."""

_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: fetch it with git lfs pull"),
    (b"<", "a web page (HTML or XML), not the file: the download failed or asked for a login; download it again"),
    (b"\x1f\x8b", "compressed with gzip: unpack it"),
    (b"PK\x03\x04", "a zip archive: unpack it"),
    (b"BZh", "compressed with bzip2: unpack it"),
    (b"\xfd7zXZ", "compressed with xz: unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"PAR1", "a Parquet file: convert it to JSON"),
    (b"ARROW1", "an Arrow file: convert it to JSON"),
)


def read_values(path: Path) -> list[Any]:
    """Read the rows of an annotation file, whatever they are.

    Args:
        path: The file.

    Raises:
        RecordError: The file is missing or is none of the forms above; the message says what it is and the way out.
    """
    text = _text(path)
    if _skip_space(text, 0) == len(text):
        raise RecordError(f"{path}: the file is empty: download it again")
    values = _values(path, text)
    first = values[0]
    if len(values) > 1 or (isinstance(first, dict) and path.suffix.lower() in _LINES):
        return values
    rows = first if isinstance(first, list) else _wrapped(path, first)
    if not rows:
        raise RecordError(f"{path}: there is no question in the file")
    return rows


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(1024)
            beginning = content.lstrip(b"\xef\xbb\xbf \t\r\n")
            for magic, sentence in _BEGINNINGS:
                if beginning.startswith(magic):
                    raise RecordError(f"{path}: this is {sentence}")
            file.seek(0)
            content = file.read()
        return content.decode(json.detect_encoding(content))
    except FileNotFoundError:
        raise RecordError(f"{path}: the annotation file is missing") from None
    except IsADirectoryError:
        raise RecordError(f"{path}: expected an annotation file, found a folder") from None
    except OSError as error:
        raise RecordError(f"{path}: the annotation file cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        name = error.encoding.upper().removesuffix("-SIG")
        raise RecordError(f"{path}: not {name} text (byte {error.start}): save it as UTF-8") from None
    except MemoryError:
        raise RecordError(
            f"{path}: {path.stat().st_size / 1e9:.1f} GB do not fit into memory: split the file"
        ) from None


def _values(path: Path, text: str) -> list[Any]:
    """Return the JSON values that stand one after the other: one list or object, or an object a line."""
    decoder = json.JSONDecoder(parse_int=_number)
    values: list[Any] = []
    place = _skip_space(text, 0)
    try:
        while place < len(text):
            if values and not isinstance(values[0], dict):
                raise json.JSONDecodeError("Extra data", text, place)
            value, place = decoder.raw_decode(text, place)
            values.append(value)
            place = _skip_space(text, place)
    except json.JSONDecodeError as error:
        _refuse(path, text, error, len(values))
    except RecursionError:
        raise RecordError(f"{path}: lists or objects are nested too deeply to be questions; {_WAY_OUT}") from None
    return values


def _refuse(path: Path, text: str, error: json.JSONDecodeError, rows: int) -> NoReturn:
    at_end = error.msg.startswith("Unterminated string") or not text[error.pos :].strip(" \t\r\n\0")
    cut = " (the file seems to be cut off: download it again)" if at_end else ""
    after = f" after {rows} questions" if rows > 1 else ""
    raise RecordError(f"{path}:{error.lineno}:{error.colno}: not JSON{after} ({error.msg}){cut}; {_WAY_OUT}")


def _skip_space(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def _wrapped(path: Path, value: Any) -> list[Any]:
    """Return the one list of rows that an object holds."""
    if not isinstance(value, dict):
        raise RecordError(f"{path}: found {reprlib.repr(value)}; {_WAY_OUT}")
    lists = [
        key for key, item in value.items() if isinstance(item, list) and any(isinstance(row, dict) for row in item)
    ]
    if len(lists) == 1:
        return list(value[lists[0]])
    keys = ", ".join(map(reprlib.repr, list(value)[:8])) or "nothing"
    found = f"with several lists ({', '.join(map(reprlib.repr, lists))})" if lists else f"with {keys}"
    raise RecordError(f"{path}: expected a JSON list of questions, found an object {found}; {_WAY_OUT}")
