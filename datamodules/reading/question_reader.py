"""From an annotation file to the questions that can be used."""

import reprlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

from datamodules.media.audio import ClipFolder, MediaError
from datamodules.media.media_index import MediaIndex
from datamodules.reading.annotation_file import read_values
from datamodules.reading.annotations import AnnotatedQuestion, Repair, RowError, check_options, check_text
from datamodules.reading.nearby_names import NearbyNames, can_be_name, is_playlist
from datamodules.reading.record_report import Finding, RecordReport
from records.records import Question
from records.valid_text import valid_texts


@dataclass(frozen=True)
class QuestionReader:
    """Reads the questions of one split.

    Attributes:
        dataset: The dataset's name, for ids.
        split: The split's name, for ids.
        parse_row: Brings a row into the terms of all datasets; None where it is not in the selected subset.
        clips: Where the clips are.
        report: Gets what is wrong or was repaired.
        number_repeated_ids: Two different rows may have the same id; the second gets a number behind it.
    """

    dataset: str
    split: str
    parse_row: Callable[[dict[str, Any], str], AnnotatedQuestion | None]
    clips: ClipFolder
    report: RecordReport
    number_repeated_ids: bool = False

    def read(self, file: Path, index: MediaIndex | None, limit: int | None = None) -> list[Question]:
        """Return the usable questions in the file's order.

        Args:
            file: The annotation file.
            index: Tells which clips can be decoded; None does not look at the clips at all.
            limit: Return only the first so many.

        Raises:
            RecordError: The file is unusable as a whole, or a row is and the report's policy is to stop.
        """
        parsed = self._parsed(read_values(file), file, must_exist=index is not None)
        if index is None:
            return [question for _, question in parsed][:limit]
        return self._decodable(list(parsed), file, index, limit)

    def _parsed(self, rows: list[Any], file: Path, must_exist: bool) -> Iterator[tuple[int, Question]]:
        names = NearbyNames(self.clips)
        seen: dict[str, tuple[int, Any]] = {}
        repeats: Counter[str] = Counter()
        for number, raw in enumerate(rows, 1):
            identity: str | None = None
            try:
                row = valid_texts(raw)
                if not isinstance(row, dict):
                    raise RowError("wrong type", f"expected an object, found {reprlib.repr(row)}")
                raw_id = row.get("id", row.get("question_id"))
                identity = None if raw_id is None else str(raw_id)
                annotated = self.parse_row(row, self.split)
                if annotated is None:
                    self.report.outside += 1
                    continue
                identity = f"{self.dataset}/{self.split}/{check_text(annotated.id, 'id')}"
                options, answer, repairs = check_options(annotated.options, annotated.answer)
                if row is not raw:
                    repairs.append(("half a character", "U+FFFD stands in place of half a character (a cut emoji)"))
                text = check_text(annotated.text, "question")
                if identity in seen:
                    first, first_row = seen[identity]
                    if not self.number_repeated_ids or row == first_row:
                        raise RowError("duplicate id", f"the id {annotated.id} is also that of row {first}")
                    repeats[identity] += 1
                    repairs.append(("repeated id", f"id {annotated.id} is also that of row {first} and was numbered"))
                    identity = f"{identity}/{repeats[identity] + 1}"
                else:
                    seen[identity] = (number, row)
                media, found = self._media(annotated.media, names, must_exist)
                repairs += found
            except RowError as error:
                self.report.add(Finding(str(file), number, identity, error.kind, str(error)))
                continue
            except RecursionError:
                self.report.add(Finding(str(file), number, identity, "wrong type", "lists are nested too deeply"))
                continue
            if repairs:
                kinds = ", ".join(sorted({kind for kind, _ in repairs}))
                reason = "; ".join(sentence for _, sentence in repairs)
                self.report.add(Finding(str(file), number, identity, kinds, reason, repaired=True))
            yield (
                number,
                Question(
                    id=identity,
                    dataset=self.dataset,
                    media=media,
                    text=text,
                    options=options,
                    answer=answer,
                    category=annotated.category,
                    metadata=annotated.metadata,
                ),
            )

    def _media(
        self, candidates: tuple[str, ...], names: NearbyNames, must_exist: bool
    ) -> tuple[str, tuple[Repair, ...]]:
        """Return the first candidate that exists, as a plain relative path; the very first if none has to exist.

        Where none exists as it is written, the one file whose name differs in its spelling alone is taken.
        """
        for candidate in candidates:
            if not can_be_name(candidate):
                raise RowError("unsafe path", f"{candidate!a} is not a path of a clip: it has control characters")
            if is_playlist(candidate):
                raise RowError("unsafe path", f"{candidate} is a playlist, which may name files and addresses anywhere")
        if self.clips.corpus is not None:
            return self._of_corpus(candidates[0], must_exist), ()
        try:
            paths = [self.clips.path(candidate) for candidate in candidates]
            found = next((path for path in paths if path.is_file()), None)
        except (MediaError, RuntimeError) as error:  # RuntimeError: a circle of symbolic links
            raise RowError("unsafe path", str(error)) from None
        except OSError as error:
            raise RowError("missing media", f"the clip {candidates[0]} cannot be opened ({error.strerror})") from None
        if found is not None:
            return found.relative_to(self.clips.root).as_posix(), ()
        near = list(dict.fromkeys(name for candidate in candidates for name in names.find(candidate)))
        written = " or ".join(candidates)
        if len(near) == 1:
            reason = f"the clip {written} was found under the nearby name {near[0]}"
            if normalize("NFC", written) == normalize("NFC", near[0]):
                reason += ", which has another form of Unicode"
            return near[0], (("found under a nearby name", reason),)
        if not must_exist:
            return paths[0].relative_to(self.clips.root).as_posix(), ()
        hint = ""
        if near:
            hint = f"; several names differ from it in their spelling only: {', '.join(near)}"
        elif nearest := next(filter(None, map(names.nearest, candidates)), None):
            hint = f"; the nearest name is {nearest}"
        raise RowError("missing media", f"the clip {written} is missing in {self.clips.root}{hint}")

    def _of_corpus(self, name: str, must_exist: bool) -> str:
        """Return the name of a corpus's clip."""
        assert self.clips.corpus is not None
        if name not in self.clips.corpus:
            raise RowError("missing media", f"the clip {name} is not among the clips that data.clips names")
        try:
            missing = must_exist and not self.clips.path(name).is_file()
        except (MediaError, RuntimeError) as error:
            raise RowError("unsafe path", str(error)) from None
        if missing:
            raise RowError("missing media", f"the file of clip {name}, {self.clips.path(name)}, is missing")
        return name

    def _decodable(
        self, parsed: list[tuple[int, Question]], file: Path, index: MediaIndex, limit: int | None
    ) -> list[Question]:
        """Return the questions whose clips can be decoded; with a limit, no more clips are decoded than it takes."""
        good: list[Question] = []
        step = len(parsed) if limit is None else max(2 * limit, 64)
        for start in range(0, len(parsed), max(step, 1)):
            some = parsed[start : start + step]
            part = [(number, question, self.clips.place(question.media)) for number, question in some]
            errors = index.check({place: None for _, _, place in part})
            for number, question, place in part:
                if error := errors[place]:
                    self.report.add(Finding(str(file), number, question.id, "corrupt media", error))
                else:
                    good.append(question)
            if limit is not None and len(good) >= limit:
                return good[:limit]
        return good
