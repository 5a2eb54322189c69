"""How well completions are read: precision and recall of the one matcher on answers that were labelled by hand."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from answers.answers import match_option
from evaluation.tables import Table
from records.records import Record, RecordError, read_jsonl

LABELLED = Path(__file__).parents[1] / "tests" / "answers" / "labelled_answers.jsonl"
"""Answers of the kinds that models give, labelled for this project."""


@dataclass(frozen=True)
class LabelledAnswer(Record):
    """What a model said, and the option that a careful reader finds in it.

    Attributes:
        completion: The raw completion.
        options: The options in the order in which they were shown.
        label: Index of the option that it chooses, or None where it chooses none.
        finished: False when it was cut at the token limit.
        kind: Its kind; precision and recall are told for each.
        held_out: True when it was written after the matcher had been mended, and read once.
    """

    schema: ClassVar[str] = "labelled-answer/1"

    completion: str
    options: tuple[str, ...]
    label: int | None
    finished: bool = True
    kind: str = ""
    held_out: bool = False

    @classmethod
    def from_json(cls, line: str, where: str = "record") -> Self:
        """Parse one line of JSON.

        Raises:
            RecordError: It is no such record, or the label is not the index of an option.
        """
        made = super().from_json(line, where)
        if made.label is not None and not 0 <= made.label < len(made.options):
            raise RecordError(
                f"{where}: label {made.label} is none of the {len(made.options)} options; the first is 0, none is null"
            )
        return made


@dataclass(frozen=True)
class Reading:
    """A labelled answer, and how it was read.

    Attributes:
        answer: The answer.
        choice: Index of the option that the matcher found, or None.
    """

    answer: LabelledAnswer
    choice: int | None


@dataclass(frozen=True)
class Agreement:
    """How readings agree with labels.

    Attributes:
        answers: How many answers there are.
        labelled: How many have an option for a label.
        chosen: In how many an option was found.
        right: In how many that was the label.
    """

    answers: int
    labelled: int
    chosen: int
    right: int

    @property
    def precision(self) -> float | None:
        """Share of those in which the label was found of those in which any option was; None where none was."""
        return self.right / self.chosen if self.chosen else None

    @property
    def recall(self) -> float | None:
        """Share of those in which the label was found of those that have one; None where none has."""
        return self.right / self.labelled if self.labelled else None


def read_answers(path: Path) -> list[Reading]:
    """Read a file of labelled answers and ask the matcher about each.

    Raises:
        RecordError: The file is missing or empty, or a line is no labelled answer; the message names file and line.
    """
    answers = list(read_jsonl(path, LabelledAnswer))
    if not answers:
        raise RecordError(f"{path}: there is no labelled answer in this file")
    return [Reading(answer, match_option(answer.completion, answer.options, answer.finished)) for answer in answers]


def agreement(readings: Iterable[Reading]) -> Agreement:
    """Count how readings agree with labels."""
    pairs = [(reading.answer.label, reading.choice) for reading in readings]
    return Agreement(
        answers=len(pairs),
        labelled=sum(label is not None for label, _ in pairs),
        chosen=sum(choice is not None for _, choice in pairs),
        right=sum(choice is not None and choice == label for label, choice in pairs),
    )


def matcher_table(readings: Sequence[Reading]) -> Table:
    """Return precision and recall for each kind, in the file's order, and in all."""
    kinds: dict[str, list[Reading]] = {}
    for reading in readings:
        kinds.setdefault(reading.answer.kind or "no kind", []).append(reading)
    held_out = [reading for reading in readings if reading.answer.held_out]
    if 0 < len(held_out) < len(readings):
        kinds["all but held out"] = [reading for reading in readings if not reading.answer.held_out]
        kinds["held out"] = held_out
    kinds["all"] = list(readings)
    columns = ("kind", "answers", "with a label", "chosen", "right", "precision", "recall")
    rows = tuple((kind, *_cells(agreement(some))) for kind, some in kinds.items())
    note = "Precision: right of chosen. Recall: right of those with a label."
    return Table("Answers as they are read", columns, rows, note)


def _cells(found: Agreement) -> tuple[str, ...]:
    shares = ("-" if share is None else f"{100 * share:.1f}%" for share in (found.precision, found.recall))
    return (*map(str, (found.answers, found.labelled, found.chosen, found.right)), *shares)


def misread(readings: Iterable[Reading]) -> list[str]:
    """Return a line for each answer that was read otherwise than it is labelled."""
    return [
        f"{reading.answer.kind}: {reading.answer.completion!r} of {' | '.join(reading.answer.options)}"
        f"{'' if reading.answer.finished else ' (cut)'}: "
        f"read as {_named(reading.choice, reading.answer)}, labelled {_named(reading.answer.label, reading.answer)}"
        for reading in readings
        if reading.choice != reading.answer.label
    ]


def _named(index: int | None, answer: LabelledAnswer) -> str:
    return "none" if index is None else answer.options[index]
