"""What a failed start has made itself goes, and nothing else."""

from pathlib import Path

import pytest

from cli.failed_start import made, undone_unless


@pytest.mark.parametrize(("begun", "left"), [(False, ["old"]), (True, ["new", "old"])])
def test_files_of_a_run_that_has_begun_and_of_earlier_ones_stay(tmp_path: Path, begun: bool, left: list[str]) -> None:
    old, new, never = (tmp_path / name for name in ("old", "new", "never"))
    old.touch()
    with pytest.raises(KeyboardInterrupt), undone_unless(lambda: begun, [old, new, never]):
        new.touch()
        raise KeyboardInterrupt
    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_folders_go_unless_something_is_in_them(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), made(tmp_path / "a" / "b" / "c"):
        (tmp_path / "a" / "kept").touch()
        raise OSError("full")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "kept"]
    with made(tmp_path / "a" / "d"):
        pass
    assert (tmp_path / "a" / "d").is_dir()
