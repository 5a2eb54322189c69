"""MMAU's official rule, from its documented behaviour, and the file that its ``evaluation.py`` reads.

Texts are compared as sets of lower-case words. An answer is accepted when it has all words of the right option and none
of the words that other options have beside those. Letters mean nothing to it ("(B)" is the word "b"), so they are
mapped to option texts first.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.annotations import read_rows
from datamodules.records import Prediction
from lightning_modules.answers import answer_in_words

_WORD = re.compile(r"\b\w+\b")


def accepts(right: str, said: str, choices: Iterable[str]) -> bool:
    """Return whether the official rule accepts an answer.

    Args:
        right: Text of the right choice.
        said: The answer in words.
        choices: All choices as the file lists them.
    """
    said_words, right_words = _words(said), _words(right)
    others = {word for choice in choices for word in _words(choice) - right_words}
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


def defects(rows: Sequence[Mapping[str, Any]]) -> list[Defect]:
    """Return the rows of an annotation file that the official rule judges wrongly, in the file's order."""
    found = []
    for row in rows:
        right, choices = row["answer"].strip(), [choice.strip() for choice in row["choices"]]
        also = dict.fromkeys(
            choice for choice in choices if choice.casefold() != right.casefold() and accepts(right, choice, choices)
        )
        letter = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[choices.index(right)]
        refused = [form for form in (right, f"({letter}) {right}") if not accepts(right, form, choices)]
        if also or refused:
            found.append(Defect(str(row["id"]), right, tuple(also), tuple(refused)))
    return found


def judge(prediction: Prediction, row: Mapping[str, Any]) -> bool:
    """Return whether the official rule accepts a prediction, its letter mapped to the option's text."""
    return accepts(row["answer"], _said(prediction), row["choices"])


def official_rows(rows: Sequence[Mapping[str, Any]], predictions: Mapping[str, Prediction]) -> list[dict[str, Any]]:
    """Return the rows of the annotation file with the answers that the official script reads.

    Args:
        rows: The rows of the annotation file.
        predictions: The predictions by the row's id. A row without one gets an empty answer, which is not accepted.

    Returns:
        Each row as it is, with ``model_output`` and ``model_prediction``: releases of the script read one or the other.
    """
    written = []
    for row in rows:
        prediction = predictions.get(str(row["id"]))
        said = "" if prediction is None else _said(prediction)
        written.append({**row, "model_output": said, "model_prediction": said})
    return written


def write_official(path: Path, annotations: Path, predictions: Iterable[Prediction]) -> None:
    """Write ``predictions.json`` for the official script; of several predictions for a question the first counts.

    Args:
        path: The file to write.
        annotations: The benchmark's annotation file.
        predictions: Predictions with ids such as ``mmau/test-mini/<id>``.
    """
    by_id: dict[str, Prediction] = {}
    for prediction in predictions:
        by_id.setdefault(prediction.question_id.rpartition("/")[2], prediction)
    rows = official_rows(read_rows(annotations), by_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=2) + "\n", encoding="ascii")  # the script opens it in the locale's encoding


def _said(prediction: Prediction) -> str:
    return answer_in_words(prediction.completion, prediction.options, prediction.finished)


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
