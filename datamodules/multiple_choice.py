"""Any benchmark of multiple-choice questions about clips whose rows are JSON objects, one for each question."""

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from datamodules.audio_qa import AudioQADataModule, Role
from datamodules.prompts.questions import LETTERS
from datamodules.reading.annotations import AnnotatedQuestion, RowError, stripped, take, take_label
from datamodules.settings import DataSettings
from runtime.errors import UserError
from runtime.settings import takes

_PLACE = re.compile(r"\{([^{}]+?)(\.stem)?\}")
_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")


@dataclass(frozen=True)
class Columns:
    """Which keys of a row hold what.

    Attributes:
        id: Key of the question's id.
        media: Key of the clip's path below ``root``, or a pattern of keys such as ``audio/{task}/{file}``, with
            ``{file.stem}`` for a name without its suffix; of several the first that exists counts. A list of one path
            is that path; a row with several clips is left aside.
        question: Key of the question's text.
        choices: Key of the list of choices, or the keys of one choice each, of which those count that a row fills.
        answer: Key of the right choice; a row that does not fill it has no label.
        answer_is: What the answer is: the choice's ``text``, its ``letter``, or its ``index`` from 0.
        category: Key of what accuracy is reported for, or several keys whose texts are joined.
        metadata: Keys that are kept beside the question.
    """

    id: str = "id"
    media: str | list[str] = "audio_path"
    question: str = "question"
    choices: str | list[str] = "choices"
    answer: str = "answer"
    answer_is: Literal["text", "letter", "index"] = "text"
    category: str | list[str] = "category"
    metadata: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class MultipleChoiceSettings(DataSettings):
    """A benchmark, beside what is said in :class:`.settings.DataSettings`.

    Attributes:
        name: What the benchmark is called in the ids of questions.
        annotations: The annotation file under ``root``.
        columns: Which keys of a row hold what; by default ``id``, ``audio_path``, ``question``, ``choices``, ``answer``
            and ``category``.
        split: What the file's split is called in the ids of questions.
    """

    name: str
    annotations: str
    columns: Columns = Columns()
    split: str = "test"

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, value in (("name", self.name), ("split", self.split)):
            if not value or "/" in value:
                raise UserError(f"data.{what} stands in the ids of questions: it must have no slash, found {value!r}")


class MultipleChoiceDataModule(AudioQADataModule):
    """Questions of one annotation file, JSON or JSONL; validation, test and prediction go through the same file.

    What stands where is said by ``columns``. MMAR, MMSU, MMAU-Pro and AIR-Bench in ``configs/benchmark`` are nothing
    else. Questions without choices and questions about several clips are left aside and counted; of questions with the
    same id the second has ``/2`` behind it.
    """

    number_repeated_ids = True
    left_aside = "open or about several clips"

    settings: MultipleChoiceSettings

    @takes(MultipleChoiceSettings)
    def __init__(self, *root: Any, **settings: Any) -> None:
        """Describe the data, as :class:`MultipleChoiceSettings` does; nothing is read before ``setup``."""
        chosen = MultipleChoiceSettings(*root, **settings)
        self.dataset = chosen.name
        self.describe(chosen)

    def split_of(self, role: Role) -> str | None:
        """Return the one split; nothing is for training."""
        return None if role == "train" else self.settings.split

    def annotation_file(self, split: str) -> Path:
        """Return the annotation file."""
        return self.root / self.settings.annotations

    def parse_row(self, row: dict[str, Any], split: str) -> AnnotatedQuestion | None:
        """Return a row in the terms of all datasets, or None for an open question and one about several clips.

        Raises:
            RowError: The row lacks something or has something of a wrong type.
        """
        columns = self.settings.columns
        options = choices_of(row, columns.choices)
        media = [media_of(row, pattern) for pattern in _listed(columns.media)]
        if not options or None in media:
            return None
        return AnnotatedQuestion(
            id=stripped(str(take(row, columns.id, str, int))),
            media=tuple(path for path in media if path is not None),
            text=take(row, columns.question, str),
            options=options,
            answer=answer_of(row, columns),
            category=", ".join(text_of(row, key) for key in _listed(columns.category)),
            metadata={key: row.get(key) for key in columns.metadata},
        )


def choices_of(row: dict[str, Any], keys: str | list[str]) -> list[Any]:
    """Return a row's choices; none where it has no key of them, or fills none.

    Raises:
        RowError: What should be a list of choices is none, or one is empty before others: letters would be another's.
    """
    if isinstance(keys, str):
        return [] if row.get(keys) is None else list(take(row, keys, list))
    found = [take_label(row, key, str, int, float) for key in keys]
    while found and found[-1] is None:
        found.pop()
    if None in found:
        raise RowError("empty option", f"{keys[found.index(None)]!r} is empty, and choices follow it")
    return found


def media_of(row: dict[str, Any], pattern: str) -> str | None:
    """Return a clip's path below the root; None where the row is about several clips, or about none.

    Args:
        row: The row.
        pattern: A key, or text with keys in braces.

    Raises:
        RowError: A key is missing or holds no text.
    """
    if "{" not in pattern:
        paths = take(row, pattern, str, list)
        if isinstance(paths, list) and len(paths) != 1:
            return None
        return str(take({pattern: paths[0]}, pattern, str) if isinstance(paths, list) else paths)

    def filled(found: re.Match[str]) -> str:
        text = str(take(row, found[1], str, int))
        return PurePosixPath(text).stem if found[2] else text

    return _PLACE.sub(filled, pattern)


def answer_of(row: dict[str, Any], columns: Columns) -> int | str | None:
    """Return the right choice's text or index, or None where the row has no label.

    Raises:
        RowError: It is not what it should be.
    """
    kinds = (int,) if columns.answer_is == "index" else (str, int, float)
    answer = take_label(row, columns.answer, *kinds)
    if answer is None or columns.answer_is == "index":
        return None if answer is None else int(answer)
    if columns.answer_is == "text":
        return str(answer)
    letter = _LETTER.fullmatch(stripped(str(answer)))
    if letter is None:
        raise RowError(
            "answer not a letter", f"{columns.answer!r} must be the letter of a choice, found {answer!r:.60}"
        )
    return LETTERS.index(letter[1].upper())


def text_of(row: dict[str, Any], key: str) -> str:
    """Return a text, or the texts of a list joined.

    Raises:
        RowError: It is neither.
    """
    value = take(row, key, str, list)
    return value if isinstance(value, str) else ", ".join(map(str, value))


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
