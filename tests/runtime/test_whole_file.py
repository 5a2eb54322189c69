"""A file is there complete or not at all."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.whole_file import remove_partial, whole_file, write_whole


@pytest.mark.parametrize("lasting", [False, True])
def test_the_file_appears_when_the_block_has_ended(tmp_path: Path, lasting: bool) -> None:
    target = tmp_path / "new" / "file.json"
    with whole_file(target, lasting) as partial:
        partial.write_text("{}")
        assert not target.exists() and partial.parent == target.parent
    assert target.read_text() == "{}" and os.listdir(target.parent) == ["file.json"]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    write_whole(target, ["old\n"])

    def lines() -> Iterator[str]:
        yield "new\n"
        raise KeyError("no more")

    with pytest.raises(KeyError):
        write_whole(target, lines())
    assert target.read_text() == "old\n" and os.listdir(tmp_path) == ["file.txt"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    with whole_file(target) as one, whole_file(target) as other:
        one.write_text("one")
        other.write_text("other")
    assert target.read_text() == "one"  # the outer block ends last


def test_only_what_was_abandoned_is_removed(tmp_path: Path) -> None:
    for name in ("a.ckpt.1.partial", "a.json.1.partial", "a.ckpt"):
        (tmp_path / name).write_text("torn")
    remove_partial(tmp_path, "*.ckpt*", seconds=60)
    assert len(os.listdir(tmp_path)) == 3
    remove_partial(tmp_path, "*.ckpt*")
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "a.json.1.partial"]
