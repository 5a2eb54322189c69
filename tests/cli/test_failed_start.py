"""What a failed start has made itself goes, and nothing else."""

from pathlib import Path

import pytest

from cli.failed_start import made, undone_unless


@pytest.mark.parametrize(
    ("begun", "left"), [(False, {"old": "earlier run"}), (True, {"old": "this run", "new": "this run"})]
)
def test_files_are_as_before_unless_the_run_has_begun(tmp_path: Path, begun: bool, left: dict[str, str]) -> None:
    """An earlier run's id at Weights & Biases among them, which is needed to go on with that run."""
    old, new, never = (tmp_path / name for name in ("old", "new", "never"))
    old.write_text("earlier run")
    with pytest.raises(KeyboardInterrupt), undone_unless(lambda: begun, [old, new, never]):
        for file in (old, new):
            file.write_text("this run")
        raise KeyboardInterrupt
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == left


def test_folders_go_unless_something_is_in_them(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), made(tmp_path / "a" / "b" / "c"):
        (tmp_path / "a" / "kept").touch()
        raise OSError("full")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "kept"]
    with made(tmp_path / "a" / "d"):
        pass
    assert (tmp_path / "a" / "d").is_dir()
