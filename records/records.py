"""The records that the stages hand to each other: one JSON object a line on disk, checked when it is read.

Raw records are kept; filters such as unanimity are switches of the stage that reads them.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from records.valid_text import valid_text, valid_texts
from runtime.errors import UserError
from runtime.whole_file import write_whole

R = TypeVar("R", bound="Record")

_CLIP = re.compile(r"\b(?:audio|video)(s?)\b")


class RecordError(UserError, ValueError):
    """A line on disk is not the record it should be; the message names file, line and field."""


@dataclass(frozen=True)
class Record:
    """Base of all records: JSON in, JSON out, with a check of every field's type."""

    schema: ClassVar[str]

    def to_json(self) -> str:
        """Return the record as one line of JSON that can be written as UTF-8, whatever a model or a file said."""
        return valid_text(json.dumps({"schema": self.schema, **dataclasses.asdict(self)}, ensure_ascii=False))

    @classmethod
    def from_json(cls, line: str, where: str = "record") -> Self:
        """Parse one line of JSON.

        Args:
            line: The JSON text.
            where: Names the line in error messages, for example ``traces.jsonl:12``.

        Raises:
            RecordError: The line is not JSON, or a field is missing, unknown or of a wrong type.
        """
        try:
            values = json.loads(line)
            if "\\ud" in line.lower():
                values = valid_texts(values)
        except json.JSONDecodeError as error:
            raise RecordError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{where}: not a record ({str(error).partition(';')[0]})") from None
        if not isinstance(values, dict):
            raise RecordError(f"{where}: expected a JSON object, found {type(values).__name__}")
        found = values.pop("schema", None)
        if found != cls.schema:
            raise RecordError(f"{where}: expected schema {cls.schema!r}, found {found!r}")
        hints = _hints(cls)  # type: ignore[arg-type]
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for name in sorted(values.keys() - fields.keys()):
            raise RecordError(f"{where}: unknown field {name!r}")
        for name, item in fields.items():
            if name not in values:
                if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
                    raise RecordError(f"{where}: field {name!r} is missing")
                continue
            values[name] = _coerce(values[name], hints[name], f"{where}: field {name!r}")
        return cls(**values)


@functools.cache
def _hints(record: type) -> dict[str, Any]:
    return typing.get_type_hints(record)


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """Check ``value`` against a type hint and turn JSON lists into tuples."""
    if hint is Any:
        return value
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        for option in typing.get_args(hint):
            try:
                return _coerce(value, option, where)
            except RecordError:
                continue
        raise RecordError(f"{where}: {value!r} is not {hint}")
    if hint is type(None):
        if value is not None:
            raise RecordError(f"{where}: {value!r} is not null")
        return None
    if origin is tuple:
        if not isinstance(value, list):
            raise RecordError(f"{where}: expected a list, found {value!r}")
        item_hint = typing.get_args(hint)[0]
        return tuple(_coerce(item, item_hint, where) for item in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise RecordError(f"{where}: expected an object, found {value!r}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint in (int, float) and isinstance(value, bool)):
        raise RecordError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value


@dataclass(frozen=True)
class Question(Record):
    """A multiple-choice question about a clip.

    Attributes:
        id: Stable and unique over datasets and splits, for example ``avqa/train/183``.
        dataset: ``avqa``, ``mmau`` or ``music_avqa``.
        media: Path of the clip relative to the dataset's folder, its DataModule's ``root``.
        text: The question as asked.
        options: The option texts in the order in which they are shown.
        answer: Index of the right option, or None where there is no label.
        category: The category that accuracy is reported for.
        metadata: Whatever else the dataset says about the question (modality, difficulty, ...).
    """

    schema: ClassVar[str] = "question/1"

    id: str
    dataset: str
    media: str
    text: str
    options: tuple[str, ...]
    answer: int | None
    category: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def answer_text(self) -> str | None:
        """The right option's text, or None where there is no label."""
        return None if self.answer is None else self.options[self.answer]

    @property
    def fingerprint(self) -> str:
        """What is asked, in 12 hexadecimal digits: text and options in their order.

        It tells a question from another one of the same id. The teacher is asked about the "video" where the student is
        asked about the "audio": that is the same question.
        """
        text = _CLIP.sub(r"clip\1", self.text.casefold())
        return hashlib.sha256(json.dumps([text, *self.options]).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Trace(Record):
    """One reasoning trace r_i of the teacher (paper, section 3.1) with its provenance.

    Attributes:
        question_id: The question it answers.
        sample: Which of the n samples, from 0.
        reasoning: The chain of thought, without tags.
        answer: The option text that the teacher chose, or None if its output had no readable answer.
        model: The teacher's name.
        endpoint: Name of the endpoint, never with credentials.
        prompt_version: Which prompt of ``datamodules.prompts.questions``.
        sampling: Sampling parameters (temperature, top_p, ...).
        seed: The request's seed.
        prompt_tokens: Tokens in the request.
        completion_tokens: Tokens generated.
        created: Seconds since the epoch.
        question_fingerprint: What the question asked then (``Question.fingerprint``), or empty where that is unknown.
    """

    schema: ClassVar[str] = "trace/1"

    question_id: str
    sample: int
    reasoning: str
    answer: str | None
    model: str
    endpoint: str = ""
    prompt_version: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    created: float | None = None
    question_fingerprint: str = ""


@dataclass(frozen=True)
class Verdict(Record):
    """The checker's word on one trace (AGFV; paper, section 3.2).

    Attributes:
        question_id: The trace's question.
        sample: The trace's sample number.
        accepted: True when the trace's claims fit the audio.
        checker: Name of the checker.
        probability: Probability of "yes" where the checker gives one.
        mode: ``trace`` or ``claims``.
        evidence: What the verdict rests on.
        prompt_version: Which prompt of ``datamodules.prompts.questions``, or empty where there is none.
        threshold: Least probability of "yes" that is accepted, where there are probabilities.
        question_fingerprint: What the question asked then (``Question.fingerprint``), or empty where that is unknown.
    """

    schema: ClassVar[str] = "verdict/1"

    question_id: str
    sample: int
    accepted: bool
    checker: str
    probability: float | None = None
    mode: str = "trace"
    evidence: tuple[str, ...] = ()
    prompt_version: str = ""
    threshold: float | None = None
    question_fingerprint: str = ""


@dataclass(frozen=True)
class Prediction(Record):
    """What a model said to a question, and how it was read.

    Attributes:
        question_id: The question.
        completion: The raw completion.
        choice: Index of the option it was read as, or None when unanswerable.
        answer: Index of the right option, or None where there is no label.
        correct: ``choice == answer``; None where there is no label.
        category: The question's category.
        options: The option texts.
        finished: False when the completion was cut at the token limit.
        probe: What was done to the audio (``silence``, ``swap``, ``noise``), or empty when it was heard as it is.
        model: The model's name or its weights, or empty where that was not recorded.
        prompt_version: Which prompt of ``datamodules.prompts.questions``, or empty where that was not recorded.
        modalities: What the model got beside the text: ``audio``, ``video`` or ``audio_video``.
        question_fingerprint: What the question asked then (``Question.fingerprint``), or empty where that is unknown.
    """

    schema: ClassVar[str] = "prediction/1"

    question_id: str
    completion: str
    choice: int | None
    answer: int | None
    correct: bool | None
    category: str
    options: tuple[str, ...]
    finished: bool
    probe: str = ""
    model: str = ""
    prompt_version: str = ""
    modalities: str = "audio"
    question_fingerprint: str = ""


def read_jsonl(path: str | os.PathLike[str], record: type[R]) -> Iterator[R]:
    """Yield the records of a JSONL file; empty lines are skipped.

    Raises:
        RecordError: The file is missing or cannot be read, or a line is malformed; the message names file and line.
    """
    number = 0
    try:
        with open(path, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield record.from_json(line.rstrip("\n"), where=f"{path}:{number}")
    except FileNotFoundError:
        raise RecordError(f"{path}: the file is missing") from None
    except OSError as error:
        raise RecordError(f"{path}: the file cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise RecordError(f"{path}: not UTF-8 text after line {number}") from None


def write_jsonl(path: str | os.PathLike[str], records: Iterable[Record]) -> None:
    """Write records to a file, one a line, replacing what was there in one step.

    Raises:
        UserError: The file cannot be written; what was there before stays.
    """
    try:
        write_whole(Path(path), (record.to_json() + "\n" for record in records))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from None
