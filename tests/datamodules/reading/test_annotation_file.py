"""The forms in which researchers have annotations, and odd values in them."""

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.reading.annotations import read_rows
from records.records import RecordError

ROWS: list[Any] = [{"id": 1, "text": "Käfig?"}, {"id": 2, "text": "b"}]


def listed(rows: list[Any], **settings: Any) -> str:
    return json.dumps(rows, ensure_ascii=False, **settings)


@pytest.mark.parametrize(
    "content",
    [
        listed(ROWS).encode(),
        listed(ROWS, indent=2).replace("\n", "\r\n").encode("utf-8-sig"),
        listed(ROWS).encode("utf-16"),
        listed(ROWS).encode("utf-16-le"),  # no byte order mark
        listed(ROWS).encode("utf-32"),
        "\n".join(listed([row])[1:-1] for row in ROWS).encode(),  # JSON lines
        "\r\n\r\n".join(listed([row])[1:-1] for row in ROWS).encode("utf-16"),
        "\n".join(listed([row], indent=1)[1:-1] for row in ROWS).encode(),  # objects one after the other, as jq writes
        json.dumps({"data": ROWS}).encode(),
        json.dumps({"info": {"version": 1}, "tags": ["a"], "questions": ROWS, "n": 2}).encode(),
    ],
)
def test_all_forms_give_the_same_rows(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.json").write_bytes(content)
    assert read_rows(tmp_path / "rows.json") == ROWS


def test_one_line_of_json_lines(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n')
    assert read_rows(tmp_path / "rows.jsonl") == [{"id": 1}]


def test_odd_values(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(
        '[{"id": NaN, "n": 1' + "0" * 5000 + ', "half": ["\\ud83d", "\\uD83D\\uDE00"]}]'
    )
    (row,) = read_rows(tmp_path / "rows.json")
    assert row["id"] != row["id"] and row["n"] == float("inf")
    assert row["half"] == ["\ufffd", "\N{GRINNING FACE}"]


def test_nesting_that_no_question_has(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"id": 1}, ' + "[" * 100_000 + "]" * 100_000 + "]")
    with pytest.raises(RecordError, match="nested too deeply"):
        read_rows(tmp_path / "rows.json")


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="expected an annotation file, found a folder"):
        read_rows(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match=r"cannot be read \(Not a directory\)"):
        read_rows(tmp_path / "file" / "rows.json")
