from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from records.records import Prediction, Question, Record, RecordError, Trace, Verdict, read_jsonl, write_jsonl
from runtime.errors import UserError

QUESTION = Question("avqa/val/1", "avqa", "videos/a.mp4", "What ist das für Lärm?", ("x", "y"), 1, "Which", {"a": 1})
RECORDS: list[Record] = [
    QUESTION,
    Trace("avqa/val/1", 0, "because", None, "teacher", sampling={"temperature": 1.0}, seed=3, created=1.5),
    Verdict("avqa/val/1", 0, True, "checker", probability=0.75, evidence=("a bark",)),
    Prediction("avqa/val/1", "<answer>y</answer>", 1, 1, True, "Which", ("x", "y"), True),
]


@pytest.mark.parametrize("record", RECORDS)
def test_json_and_back(record: Record) -> None:
    assert type(record).from_json(record.to_json()) == record
    assert "\n" not in record.to_json()


def test_answer_text() -> None:
    assert QUESTION.answer_text == "y"


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "new" / "q.jsonl"
    write_jsonl(path, [QUESTION, QUESTION])
    path.write_text(path.read_text() + "\n\n")
    assert list(read_jsonl(path, Question)) == [QUESTION, QUESTION]
    write_jsonl(path, [QUESTION])
    assert list(read_jsonl(path, Question)) == [QUESTION]
    assert [file.name for file in path.parent.iterdir()] == ["q.jsonl"]


VERDICT = '{"schema": "verdict/1", "question_id": "q", "sample": 0, "accepted": true, "checker": "c"'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": ', r"not JSON \(Expecting value at column 7\)"),
        ("[1]", "expected a JSON object, found list"),
        ('{"question_id": "q"}', "expected schema 'verdict/1', found None"),
        ('{"schema": "trace/1"}', "expected schema 'verdict/1', found 'trace/1'"),
        ('{"schema": "verdict/1"}', "field 'question_id' is missing"),
        (VERDICT + ', "x": 1, "b": 1}', "unknown field 'b'"),
        (VERDICT.replace("0", '"0"') + "}", "field 'sample': expected int, found '0'"),
        (VERDICT.replace("0", "true") + "}", "field 'sample': expected int, found True"),
        (VERDICT.replace("true", "1") + "}", "field 'accepted': expected bool, found 1"),
        (VERDICT.replace('"q"', "null") + "}", "field 'question_id': expected str, found None"),
        (VERDICT + ', "probability": "high"}', "field 'probability': 'high' is not"),
        (VERDICT + ', "evidence": "a bark"}', "field 'evidence': expected a list, found 'a bark'"),
        (VERDICT + ', "evidence": [1]}', "field 'evidence': expected str, found 1"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text(VERDICT + "}\n" + line + "\n")
    with pytest.raises(RecordError, match=message) as error:
        list(read_jsonl(path, Verdict))
    assert str(error.value).startswith(f"{path}:2: ")
    assert isinstance(error.value, UserError)


def test_a_whole_number_is_a_float_where_one_is_expected() -> None:
    assert Verdict.from_json(VERDICT + ', "probability": 1}').probability == 1.0


@pytest.mark.parametrize(("content", "message"), [(None, "the file is missing"), (b"\n\xff\n", "not UTF-8 text")])
def test_files_that_cannot_be_read(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "v.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecordError, match=rf"v\.jsonl: {message}"):
        list(read_jsonl(path, Verdict))


def test_half_an_emoji_is_written_and_read(tmp_path: Path) -> None:
    """A model may say half a character; a file of another program may have one as an escape."""
    path = tmp_path / "t.jsonl"
    write_jsonl(path, [Trace("q/\ud83d", 0, "a dog \ud83d barks", "a dog", "t", sampling={"stop": "\ud83d"})])
    (trace,) = read_jsonl(path, Trace)
    assert (trace.question_id, trace.reasoning, trace.answer) == ("q/\ufffd", "a dog \ufffd barks", "a dog")
    path.write_text('{"schema": "trace/1", "question_id": "q", "sample": 0, "reasoning": "\\uD83D", "answer": null, ')
    path.write_text(path.read_text() + '"model": "t"}')
    assert next(read_jsonl(path, Trace)).reasoning == "\ufffd"


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with pytest.raises(RecordError, match=r"the file cannot be read \(Is a directory\)"):
        list(read_jsonl(tmp_path, Trace))
    for line in ("1" + "0" * 5000, "[" * 100_000):
        path.write_text(line)
        with pytest.raises(RecordError, match=r"t\.jsonl:1: not a record"):
            list(read_jsonl(path, Trace))


def test_what_was_there_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    write_jsonl(path, [QUESTION])

    def broken() -> Iterator[Record]:
        yield QUESTION
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"q\.jsonl cannot be written \(No space left on device\)"):
        write_jsonl(path, broken())
    assert list(read_jsonl(path, Question)) == [QUESTION]
    assert [file.name for file in tmp_path.iterdir()] == ["q.jsonl"]
