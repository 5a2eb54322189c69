"""The questions of a dataset's splits: read once, reported on, and with the lengths of their clips."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.media.audio import ClipFolder
from datamodules.media.media_index import MediaIndex
from datamodules.reading.annotations import AnnotatedQuestion
from datamodules.reading.question_reader import QuestionReader
from datamodules.reading.record_report import BadRecordPolicy, RecordReport
from records.records import Question, RecordError
from runtime.all_ranks import is_rank_zero


@dataclass
class Splits:
    """Reads the questions of a split when they are first asked for.

    Attributes:
        dataset: Name of the dataset.
        annotation_file: Gives the annotation file of a split.
        parse_row: Puts a row of it into the terms of all datasets.
        clips: Where the clips are.
        number_repeated_ids: Whether a second row of the same id is a question of its own.
        left_aside: What rows are that ``parse_row`` passes over.
        on_bad_record: What to do with rows and clips that cannot be used.
        report_dir: Folder of the report on them and of the index of checked clips.
        check_clips: Decode each clip once before the start; what was found is remembered in the index.
        threads: Clips that are decoded at once.
        limit: Use only the first so many usable questions of each split.
        clip_seconds: Length of the clips of all splits read so far, where they were checked.
    """

    dataset: str
    annotation_file: Callable[[str], Path]
    parse_row: Callable[[dict[str, Any], str], AnnotatedQuestion | None]
    clips: ClipFolder
    number_repeated_ids: bool
    left_aside: str
    on_bad_record: BadRecordPolicy
    report_dir: Path
    check_clips: bool
    threads: int
    limit: int | None
    clip_seconds: dict[str, float] = field(default_factory=dict)
    _questions: dict[str, list[Question]] = field(default_factory=dict)

    def questions(self, split: str) -> list[Question]:
        """Return the questions of a split in the file's order.

        Raises:
            UserError: A file cannot be read, no usable question remains, or the policy is to stop at bad records.
        """
        if split not in self._questions:
            self._questions[split] = self._read(split)
        return self._questions[split]

    def _read(self, split: str) -> list[Question]:
        file = self.annotation_file(split)
        report = RecordReport(self.on_bad_record)
        reader = QuestionReader(
            dataset=self.dataset,
            split=split,
            parse_row=self.parse_row,
            clips=self.clips,
            number_repeated_ids=self.number_repeated_ids,
            report=report,
        )
        index = None
        if self.check_clips:
            place, longest = self.report_dir / "checked-clips.jsonl", self.clips.max_seconds
            index = MediaIndex(place, self.clips.decode, max(self.threads, 1), longest)
        questions = reader.read(file, index, self.limit)
        if index is not None:
            self.clip_seconds |= {q.media: index.seconds(self.clips.place(q.media)) for q in questions}
        name = f"{self.dataset}-{split}"
        if is_rank_zero():
            report_file = self.report_dir / f"{name}.bad.jsonl"
            report.write(report_file)
            counted = f"{name}: {len(questions)} questions"
            if report.outside:
                counted += f", {report.outside} that are {self.left_aside} left aside"
            if report.findings:
                say = rank_zero_warn if report.left_out else rank_zero_info
                say(f"{counted}; {report.counts()}; each row is named in {report_file}")
            else:
                rank_zero_info(counted)
        if unknown := sum(question.answer is None for question in questions):
            rank_zero_info(
                f"{name}: {unknown} of {len(questions)} questions have no answer in {file}: they can be asked, and no "
                "accuracy is counted for them"
            )
        if not questions:
            raise RecordError(f"{file}: no usable question remains: {report.counts() or 'none is in the subset'}")
        return questions
