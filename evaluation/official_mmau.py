"""MMAU's official rule, from its documented behaviour, and the file that its ``evaluation.py`` reads.

Texts are compared as sets of lower-case words. An answer is accepted when it has all words of the right option and none
of the words that other options have beside those. Letters mean nothing to it ("(B)" is the word "b"), so they are
mapped to option texts first.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from answers.answers import answer_in_words
from datamodules.mmau import label_of, row_id
from datamodules.prompts.questions import LETTERS
from datamodules.reading.annotations import RowError, check_options, read_rows, same_text, take
from records.records import Prediction
from runtime.errors import UserError
from runtime.whole_file import write_whole

_WORD = re.compile(r"\b\w+\b")


def accepts(right: str, said: str, choices: Iterable[str | int | float]) -> bool:
    """Return whether the official rule accepts an answer.

    Args:
        right: Text of the right choice.
        said: The answer in words.
        choices: All choices as the file lists them; numbers are read as their text.
    """
    said_words, right_words = _words(said), _words(right)
    others = {word for choice in choices for word in _words(str(choice)) - right_words}
    return bool(said_words) and right_words <= said_words and not said_words & others


@dataclass(frozen=True)
class Defect:
    """A row in which the official rule cannot tell right from wrong.

    Attributes:
        id: The row's id.
        right: The right choice.
        also_accepted: Wrong choices whose texts are accepted too.
        refused_forms: Right answers that are refused because of the option letter before the text.
    """

    id: str
    right: str
    also_accepted: tuple[str, ...]
    refused_forms: tuple[str, ...]


def defects(rows: Iterable[Any]) -> list[Defect]:
    """Return the rows of an annotation file that the official rule judges wrongly, in the file's order.

    Rows that the DataModule leaves out, and those whose right answer is not known, are passed over.
    """
    found = []
    for row in rows:
        if (usable := usable_row(row)) is None:
            continue
        name, right, choices = usable
        also = dict.fromkeys(
            choice for choice in choices if same_text(choice) != same_text(right) and accepts(right, choice, choices)
        )
        refused = [
            form for form in (right, f"({LETTERS[choices.index(right)]}) {right}") if not accepts(right, form, choices)
        ]
        if also or refused:
            found.append(Defect(name, right, tuple(also), tuple(refused)))
    return found


def usable_row(row: Any) -> tuple[str, str, tuple[str, ...]] | None:
    """Return a row's id, right choice and all its choices; None where there is no row, no choices or no answer."""
    if not isinstance(row, dict):
        return None
    try:
        choices, right, _ = check_options(take(row, "choices", list), label_of(row))
        return None if right is None else (row_id(row), choices[right], choices)
    except RowError:
        return None


def judge(prediction: Prediction, row: Mapping[str, Any]) -> bool:
    """Return whether the official rule accepts a prediction, its letter mapped to the option's text."""
    return accepts(str(row["answer"]), _said(prediction), row["choices"])


def official_rows(rows: Iterable[Any], predictions: Mapping[str, Prediction]) -> list[dict[str, Any]]:
    """Return the rows of the annotation file with the answers that the official script reads.

    Args:
        rows: The rows of the annotation file. What is no object is left out: the script would stop at it.
        predictions: The predictions by the row's id. A row without one gets an empty answer, which is not accepted.

    Returns:
        Each row as it is, with ``model_output`` and ``model_prediction``: releases of the script read one or the other.
    """
    written = []
    for row in rows:
        if isinstance(row, dict):
            prediction = predictions.get(_id_or_none(row) or "")
            said = "" if prediction is None else _said(prediction)
            written.append({**row, "model_output": said, "model_prediction": said})
    return written


def write_official(path: Path, annotations: Path, predictions: Iterable[Prediction]) -> tuple[int, int]:
    """Write ``predictions.json`` for the official script; of several predictions for a question the first counts.

    Args:
        path: The file to write.
        annotations: The annotation file that was asked, with answers or without.
        predictions: Predictions with ids such as ``mmau/test-mini/<id>``.

    Returns:
        How many rows were written, and how many of them have a prediction.

    Raises:
        UserError: The annotation file is unusable, or the file cannot be written.
    """
    by_id: dict[str, Prediction] = {}
    for prediction in predictions:
        by_id.setdefault(prediction.question_id.split("/", 2)[-1], prediction)
    rows = read_rows(annotations)
    written = official_rows(rows, by_id)
    content = json.dumps(written, indent=2)  # ASCII: the script opens it in the locale's encoding
    try:
        write_whole(path, [content, "\n"])
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from None
    return len(written), sum(_id_or_none(row) in by_id for row in written)


def _id_or_none(row: Any) -> str | None:
    try:
        return row_id(row) if isinstance(row, dict) else None
    except RowError:
        return None


def _said(prediction: Prediction) -> str:
    return answer_in_words(prediction.completion, prediction.options, prediction.finished)


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
