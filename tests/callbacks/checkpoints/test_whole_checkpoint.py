"""A checkpoint of many files takes its place when it is complete, and never otherwise."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import LightningModule
from torch.distributed.checkpoint.api import CheckpointException

from callbacks.checkpoints.checkpointing import BestCheckpoint, LastCheckpoint
from callbacks.checkpoints.whole_checkpoint import PLAIN_VALUES
from runtime import whole_folder
from runtime.errors import UserError
from runtime.whole_folder import partial_of


class OneRank:
    """Writes what a strategy with distributed checkpoints would, as far as it gets."""

    def __init__(self, root: Path) -> None:
        self.strategy = SimpleNamespace(
            _save_distributed_checkpoint=True, barrier=lambda name: None, broadcast=lambda value: value
        )
        self.is_global_zero = True
        self.global_step = 3
        self.default_root_dir = str(root)
        self.error: BaseException | None = None
        self.content = "first"

    def save_checkpoint(self, path: Path, weights_only: bool) -> None:
        path.mkdir(parents=True)
        (path / "__0_0.distcp").write_text(self.content)
        if self.error is not None:
            raise self.error
        (path / PLAIN_VALUES).write_text(self.content)


def write(trainer: Any, target: Path) -> None:
    LastCheckpoint()._save_checkpoint(trainer, str(target))


def test_a_torn_one_leaves_the_last_as_it_was(tmp_path: Path) -> None:
    trainer, target = OneRank(tmp_path), tmp_path / "checkpoints" / "last.ckpt"
    write(trainer, target)
    trainer.content = "second"
    trainer.error = KeyboardInterrupt()  # ended in the middle
    with pytest.raises(KeyboardInterrupt):
        write(trainer, target)
    assert {file.name: file.read_text() for file in target.iterdir()} == {
        "__0_0.distcp": "first",
        PLAIN_VALUES: "first",
    }
    trainer.error = CheckpointException("save", {0: (OSError(28, "No space left on device"), None)})  # type: ignore
    with pytest.raises(UserError, match=r"last\.ckpt cannot be written .*No space left on device"):
        write(trainer, target)
    trainer.error = None
    write(trainer, target)
    assert (target / PLAIN_VALUES).read_text() == "second"
    assert [path.name for path in target.parent.iterdir()] == ["last.ckpt"]


def test_it_takes_the_place_of_a_file_and_is_found(tmp_path: Path) -> None:
    trainer, target = OneRank(tmp_path), tmp_path / "checkpoints" / "last.ckpt"
    target.parent.mkdir()
    target.write_bytes(b"a checkpoint of one file")
    write(trainer, target)
    assert target.is_dir() and not partial_of(target).exists()
    assert LastCheckpoint()._find_last_checkpoints(trainer) == {str(target.resolve())}  # type: ignore[arg-type]


class Killed(BaseException):
    """The process ends here."""


def write_and_be_killed(trainer: Any, place: Path, renames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write where folders cannot be swapped, and end before another rename, or before anything is removed then."""
    left = [renames]
    rename = os.rename

    def counted(source: Any, goal: Any) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        rename(source, goal)

    def remove(folder: Any, **_: Any) -> None:
        if left[0] == 0 and Path(folder).is_dir():
            raise Killed

    with monkeypatch.context() as killed:
        killed.setattr(whole_folder, "_exchange", lambda one, other: False)
        killed.setattr(whole_folder.os, "rename", counted)
        killed.setattr(whole_folder.shutil, "rmtree", remove)
        with pytest.raises(Killed):
            write(trainer, place)
    assert place.exists() == (renames != 1)


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_killed_between_the_renames_of_a_file_system_that_cannot_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    trainer: Any = OneRank(tmp_path)
    last, best = tmp_path / "checkpoints" / "last.ckpt", tmp_path / "checkpoints" / "best-step=3.ckpt"
    for place in (last, best):
        trainer.content = "first"
        write(trainer, place)
        trainer.content = "second"
        write_and_be_killed(trainer, place, renames, monkeypatch)
    found = LastCheckpoint()._find_last_checkpoints(trainer)  # Lightning asks before anything is set up
    assert found == {str(last.resolve())}
    expected = "second" if renames == 2 else "first"
    assert (last / PLAIN_VALUES).read_text() == expected, "whole: the new one where it was in its place"
    assert LastCheckpoint()._find_last_checkpoints(trainer) == found, "another rank asks too"
    trainer.val_check_interval = None
    trainer.strategy.broadcast = lambda value, src=0: value
    trainer.loggers = []
    BestCheckpoint(dirpath=str(last.parent)).setup(trainer, LightningModule(), "fit")
    assert (best / PLAIN_VALUES).read_text() == expected
    assert sorted(path.name for path in last.parent.iterdir()) == [best.name, "last.ckpt"], "nothing is left over"
