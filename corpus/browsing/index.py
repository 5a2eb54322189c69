"""An index of a corpus in memory: what filters and pages need. Traces stay on disk and are read when they are shown.

SQLite answers a filter over 100,000 questions in milliseconds, and keeps of a trace its answer and its place in a file.
"""

import itertools
import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus.browsing.place import Place
from records.records import RecordError, Trace, Verdict

GATES = ("no traces", "traces disagree", "not checked", "rejected", "accepted")
"""How far a question came: the last two by the checker's verdicts, ``accepted`` where at least one trace was."""

JUDGED = ("unlabelled", "labelled", "label differs from the checker")

_AT_ONCE = 2000
"""Records that are read while the page waits: some hundredths of a second."""

_TABLES = """
create table question (n integer primary key, id text unique, kind text, words text,
    traces int not null default 0, answers int not null default 0, accepted int not null default 0,
    rejected int not null default 0, labelled int not null default 0, differs int not null default 0,
    gate text not null default 'no traces');
create table trace (id text, sample int, answer text, file int, offset int, primary key (id, sample)) without rowid;
create table verdict (id text, sample int, accepted int, file int, offset int, primary key (id, sample)) without rowid;
create table label (id text, sample int, accepted int, primary key (id, sample)) without rowid;
"""

_SUMMARIES = """
update question set traces = s.count, answers = s.answers
    from (select id, count(*) as count, count(distinct answer) + max(answer is null) as answers from trace group by id)
    as s
    where s.id = question.id;
update question set accepted = s.yes, rejected = s.count - s.yes
    from (select id, sum(accepted) as yes, count(*) as count from verdict group by id) s where s.id = question.id;
update question set gate = case when traces = 0 then 'no traces' when answers > 1 then 'traces disagree'
    when accepted > 0 then 'accepted' when rejected > 0 then 'rejected' else 'not checked' end;
create index by_gate on question (gate, n);
create index by_kind on question (kind, n);
"""


@dataclass(frozen=True)
class Selection:
    """Which questions are shown.

    Attributes:
        gate: One of :data:`GATES`; empty for all.
        kind: A question type; empty for all.
        judged: One of :data:`JUDGED`; empty for all.
        words: What question, options or clip contain, whatever the capitals; empty for all.
    """

    gate: str = ""
    kind: str = ""
    judged: str = ""
    words: str = ""

    @property
    def clause(self) -> tuple[str, list[Any]]:
        """The condition in SQL, and its values."""
        conditions, values = ["1"], []
        for column, value in (("gate", self.gate), ("kind", self.kind)):
            if value:
                conditions.append(f"{column} = ?")
                values.append(value)
        if self.judged:
            conditions.append(
                {"unlabelled": "labelled = 0", "labelled": "labelled > 0"}.get(self.judged, "differs > 0")
            )
        if self.words:
            conditions.append("instr(words, ?)")
            values.append(self.words.casefold())
        return " and ".join(conditions), values


@dataclass(frozen=True)
class Shown:
    """A question as a list shows it.

    Attributes:
        n: Its place in the annotation file, from 0.
        id: Its id, as records name it.
        row: The annotation file's row.
        gate: How far it came.
        traces: How many traces it has.
        accepted: How many of them the checker accepted.
        rejected: How many of them the checker rejected.
        labelled: How many of them a person has judged.
    """

    n: int
    id: str
    row: dict[str, Any]
    gate: str
    traces: int
    accepted: int
    rejected: int
    labelled: int


class CorpusIndex:
    """What is in a corpus. Threads may ask at the same time."""

    def __init__(self, place: Place) -> None:
        """Read the questions of a corpus; traces and verdicts are read by :meth:`read_records`.

        Args:
            place: Where it lies.

        Raises:
            UserError: A file is missing, or the annotations are none.
        """
        self.place = place
        self.status = "traces and verdicts have not been read yet"
        self._tables = [("trace", file) for file in place.trace_files()]
        self._tables += [("verdict", file) for file in place.verdict_files()]
        self._lock = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._database.executescript(_TABLES)
        self._rows = place.rows()
        self._database.execute("begin")
        self._database.executemany(
            "insert or ignore into question (n, id, kind, words) values (?, ?, ?, ?)",
            (
                (n, f"avqa/{place.split}/{row.get('id')}", _text(row.get("question_type")), _words(row))
                for n, row in enumerate(self._rows)
            ),
        )
        self._database.execute("commit")

    def read_records(self) -> None:
        """Read traces and verdicts, in a thread beside the page; :attr:`status` says how far it is or what is wrong."""
        try:
            for number, (table, file) in enumerate(self._tables):
                self._read(table, file, number)
        except (OSError, RecordError) as error:
            self.status = f"traces and verdicts could not all be read: {error}"
        else:
            self.status = ""
        with self._lock:
            self._database.executescript(_SUMMARIES)

    def _read(self, table: str, file: Path, number: int) -> None:
        column = "answer" if table == "trace" else "accepted"
        command = f"insert or ignore into {table} (id, sample, {column}, file, offset) values (?, ?, ?, {number}, ?)"
        size, lines = file.stat().st_size, _lines(file)
        while some := list(itertools.islice(lines, _AT_ONCE)):
            rows = [(one["question_id"], one["sample"], _plain(one.get(column)), offset) for one, offset in some]
            with self._lock:
                self._database.execute("begin")
                self._database.executemany(command, rows)
                self._database.execute("commit")
            self.status = f"{file} is being read: {some[-1][1] / max(size, 1):.0%}"

    def count(self, selection: Selection) -> int:
        """Return how many questions there are."""
        clause, values = selection.clause
        return int(self._ask(f"select count(*) from question where {clause}", values)[0][0])

    def page(self, selection: Selection, start: int, length: int) -> list[Shown]:
        """Return some of the questions.

        Args:
            selection: Which.
            start: How many of them to leave out.
            length: How many at most.
        """
        clause, values = selection.clause
        return self._shown(f"where {clause} order by n limit ? offset ?", [*values, length, start])

    def question(self, n: int) -> Shown | None:
        """Return the question at a place of the file, or None where there is none."""
        return next(iter(self._shown("where n = ?", [n])), None)

    def neighbours(self, selection: Selection, n: int) -> tuple[int | None, int | None]:
        """Return the places of the questions before and after one."""
        clause, values = selection.clause
        before = self._ask(f"select max(n) from question where {clause} and n < ?", [*values, n])[0][0]
        after = self._ask(f"select min(n) from question where {clause} and n > ?", [*values, n])[0][0]
        return before, after

    def kinds(self) -> list[tuple[str, int]]:
        """Return the question types, each with its number of questions."""
        return self._ask("select kind, count(*) from question where kind is not null group by kind order by kind")

    def gates(self) -> dict[str, int]:
        """Return how many questions came how far."""
        found = dict(self._ask("select gate, count(*) from question group by gate"))
        return {gate: found.get(gate, 0) for gate in GATES}

    def traces(self, question_id: str) -> list[tuple[Trace, Verdict | None, bool | None]]:
        """Return a question's traces, each with the checker's verdict and a person's, None where there is none.

        Raises:
            RecordError: A file has changed since, or a line is no record.
        """
        rows = self._ask(
            "select t.file, t.offset, v.file, v.offset, l.accepted from trace t"
            " left join verdict v on v.id = t.id and v.sample = t.sample"
            " left join label l on l.id = t.id and l.sample = t.sample where t.id = ? order by t.sample",
            [question_id],
        )
        return [
            (
                self._record(file, offset, Trace),
                None if verdict_file is None else self._record(verdict_file, verdict_offset, Verdict),
                None if label is None else bool(label),
            )
            for file, offset, verdict_file, verdict_offset, label in rows
        ]

    def set_label(self, question_id: str, sample: int, accepted: bool | None) -> None:
        """Take note of what a person says of a trace; None forgets it."""
        with self._lock:
            self._database.execute("delete from label where id = ? and sample = ?", [question_id, sample])
            if accepted is not None:
                self._database.execute("insert into label values (?, ?, ?)", [question_id, sample, int(accepted)])
            self._database.execute(
                "update question set labelled = (select count(*) from label l where l.id = question.id), differs ="
                " (select count(*) from label l join verdict v on v.id = l.id and v.sample = l.sample"
                " where l.id = question.id and l.accepted != v.accepted) where id = ?",
                [question_id],
            )

    def _record(self, file: int, offset: int, kind: type[Any]) -> Any:
        path = self._tables[file][1]
        try:
            with path.open("rb") as lines:
                lines.seek(offset)
                line = lines.readline()
        except OSError as error:
            raise RecordError(f"{path}: the file cannot be read ({error.strerror})") from None
        return kind.from_json(line.decode("utf-8", errors="replace").rstrip("\n"), where=f"{path} at byte {offset}")

    def _shown(self, where: str, values: Sequence[Any]) -> list[Shown]:
        columns = "n, id, gate, traces, accepted, rejected, labelled"
        found = self._ask(f"select {columns} from question {where}", values)
        return [Shown(n, id_, self._rows[n], *rest) for n, id_, *rest in found]

    def _ask(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            return self._database.execute(query, values).fetchall()


def _lines(file: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the objects of a JSONL file and their places; a torn last line, of a stage that runs, is left out."""
    offset, number = 0, 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                values = json.loads(line.decode("utf-8"))
                if not {"question_id", "sample"} <= values.keys():
                    raise ValueError
                yield values, offset
            except (ValueError, AttributeError):
                if line.endswith(b"\n") and line.strip():
                    raise RecordError(f"{file}:{number}: not a trace or verdict") from None
            offset += len(line)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _plain(value: Any) -> Any:
    """Return a value that SQLite can hold and by which answers are compared as the stages do."""
    if isinstance(value, bool):
        return int(value)
    return value.strip().casefold() if isinstance(value, str) else None


def _words(row: dict[str, Any]) -> str:
    options = row.get("multi_choice")
    parts = [row.get("question_text"), row.get("video_name"), *(options if isinstance(options, list) else ())]
    return "\n".join(str(part) for part in parts).casefold()
