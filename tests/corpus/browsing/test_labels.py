"""A person's verdicts on disk."""

from pathlib import Path

import pytest

from corpus.browsing.labels import LabelFile
from records.records import Verdict, read_jsonl
from runtime.errors import UserError


def test_written_taken_back_and_gone_on_with(tmp_path: Path) -> None:
    labels = LabelFile(tmp_path, "ann")
    labels.add("avqa/train/1", 0, True, "f")
    labels.add("avqa/train/1", 0, False, "f")
    assert labels.undo() == Verdict("avqa/train/1", 0, False, "person:ann", question_fingerprint="f")
    labels.add("avqa/train/2", 3, False, "g")
    labels.close()
    written = list(read_jsonl(tmp_path / "ann.jsonl", Verdict))
    assert [(verdict.question_id, verdict.accepted) for verdict in written] == [
        ("avqa/train/1", True),
        ("avqa/train/2", False),
    ]
    again = LabelFile(tmp_path, "ann")
    assert len(again.current()) == 2 and again.undo() is None
    again.close()


def test_the_last_counts_and_a_torn_line_is_removed(tmp_path: Path) -> None:
    labels = LabelFile(tmp_path, "ann")
    labels.add("q", 0, True, "")
    labels.add("q", 0, False, "")
    labels.close()
    with (tmp_path / "ann.jsonl").open("a") as file:
        file.write('{"schema": "verd')
    again = LabelFile(tmp_path, "ann")
    assert [verdict.accepted for verdict in again.current().values()] == [False]
    again.close()


def test_two_sittings_of_one_name(tmp_path: Path) -> None:
    labels = LabelFile(tmp_path, "ann")
    with pytest.raises(UserError, match="being written by another run"):
        LabelFile(tmp_path, "ann")
    labels.close()


@pytest.mark.parametrize("name", ["", "../ann", "a b", ".hidden", "a" * 41])
def test_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="a name of letters"):
        LabelFile(tmp_path, name)
