"""A checkpoint of many files takes its place when it is complete, and never otherwise."""

import contextlib
import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy

from callbacks.checkpoints import folder_writer
from callbacks.checkpoints.checkpointing import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint
from callbacks.checkpoints.sharded_strategy import ShardedStrategy
from lightning_modules.models.checkpoints.sharded_checkpoint import PLAIN_VALUES, CheckpointError, ShardedCheckpoint
from runtime import whole_folder
from runtime.errors import UserError
from runtime.whole_folder import partial_of

pytestmark = pytest.mark.usefixtures("one_rank")


class OneRank:
    """A trainer on one rank whose checkpoints are folders with one weight."""

    def __init__(self, root: Path) -> None:
        self.strategy: ModelParallelStrategy = ShardedStrategy(1, 1, process_group_backend="gloo")
        self.strategy.parallel_devices = [torch.device("cpu")]
        self.strategy.cluster_environment = LightningEnvironment()
        self._checkpoint_connector = self
        self.is_global_zero = True
        self.should_stop = self.received_sigterm = False
        self.max_steps = 100
        self.max_epochs = None
        self.global_step = self.current_epoch = 3
        self.default_root_dir = str(root)
        self.ckpt_path = self.val_check_interval = None
        self.loggers: list[Any] = []
        self.fit_loop: Any = self
        self.epoch_loop = self.batch_progress = self
        self.is_last_batch = False
        self.weight = torch.ones(3)

    def dump_checkpoint(self, weights_only: bool) -> dict[str, Any]:
        return {"state_dict": {"w": self.weight}, "step": self.global_step}


def write(trainer: Any, target: Path, callback: LastCheckpoint | None = None) -> None:
    (callback or LastCheckpoint())._save_checkpoint(trainer, str(target))


def content(target: Path) -> float:
    return float(ShardedCheckpoint(target).weight("w")[0])


class Killed(BaseException):
    """The process ends here."""


def end(*_: Any) -> None:
    raise Killed("Killed")


@contextlib.contextmanager
def killed(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let nothing be cleared up, as by a process that has ended."""
    with monkeypatch.context() as patched:
        patched.setattr(folder_writer, "remove_path", lambda path: None)
        yield patched


def test_a_torn_one_leaves_the_last_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, target = OneRank(tmp_path), tmp_path / "checkpoints" / "last.ckpt"
    write(trainer, target)
    trainer.weight = torch.full((3,), 2.0)

    with killed(monkeypatch) as patched, pytest.raises(CheckpointError, match="Killed"):
        patched.setattr(folder_writer, "replace_folder", end)
        write(trainer, target)
    assert content(target) == 1.0 and partial_of(target).is_dir()
    write(trainer, target)
    assert content(target) == 2.0
    assert [path.name for path in target.parent.iterdir()] == ["last.ckpt"]


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    """In the background it is said where the run comes by again, and what was there stays."""
    trainer, target = OneRank(tmp_path), tmp_path / "checkpoints" / "last.ckpt"
    write(trainer, target)
    trainer.weight = torch.full((100_000,), 2.0)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    removed = []
    try:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        said = r"last\.ckpt cannot be written \(rank 0: File too large\): .* with room for 0\.0 GB; .* is as it was"
        with pytest.raises(CheckpointError, match=said):
            write(trainer, target)
        background = LastCheckpoint(asynchronous=True)
        write(trainer, target, background)
        trainer.strategy.writer.when_written(lambda: removed.append("an older one"))
        with pytest.raises(CheckpointError, match=said):
            background.finish(trainer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert content(target) == 1.0 and not removed
    write(trainer, target)
    assert content(target) == 2.0


def test_in_the_background_it_holds_what_was_there_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on while it is written; the next one waits, and so does the removal of an older one."""
    trainer, folder = OneRank(tmp_path), tmp_path / "checkpoints"
    callback = LastCheckpoint(asynchronous=True)
    write(trainer, folder / "old.ckpt")
    go_on, written = threading.Event(), folder_writer.FolderWriter._write

    def slowly(self: Any, *arguments: Any) -> None:
        go_on.wait(10)
        written(self, *arguments)

    monkeypatch.setattr(folder_writer.FolderWriter, "_write", slowly)
    trainer.weight = torch.full((3,), 2.0)
    write(trainer, folder / "new.ckpt", callback)
    callback._remove_checkpoint(trainer, str(folder / "old.ckpt"))
    trainer.weight.fill_(9.0)
    trainer.global_step = 9
    assert not (folder / "new.ckpt").exists() and content(folder / "old.ckpt") == 1.0
    with pytest.raises(TimeoutError):
        callback.finish(trainer, 0.01)
    go_on.set()
    callback.finish(trainer)
    assert content(folder / "new.ckpt") == 2.0 and ShardedCheckpoint(folder / "new.ckpt").plain["step"] == 3
    assert [path.name for path in folder.iterdir()] == ["new.ckpt"]
    trainer.should_stop = True  # nothing goes on behind the last one: it is there when the call returns
    write(trainer, folder / "last.ckpt", callback)
    assert content(folder / "last.ckpt") == 9.0


def test_a_file_and_a_folder_take_each_others_place(tmp_path: Path) -> None:
    trainer, target = OneRank(tmp_path), tmp_path / "checkpoints" / "last.ckpt"
    for _ in range(2):
        AtomicCheckpointIO().save_checkpoint({"step": 1}, target)
        assert target.is_file()
        write(trainer, target)
        assert content(target) == 1.0
    assert [path.name for path in target.parent.iterdir()] == ["last.ckpt"]
    assert LastCheckpoint()._find_last_checkpoints(trainer) == {str(target.resolve())}  # type: ignore[arg-type]


def test_a_folder_is_read_like_a_file(tmp_path: Path) -> None:
    write(OneRank(tmp_path), tmp_path / "last.ckpt")
    found = AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(found.pop("state_dict")["w"], torch.ones(3)) and found == {"step": 3}
    with pytest.raises(CheckpointError, match="is a folder, but no checkpoint of many files"):
        AtomicCheckpointIO().load_checkpoint(tmp_path)


def test_lightnings_own_strategy_is_refused(tmp_path: Path) -> None:
    trainer: Any = OneRank(tmp_path)
    trainer.strategy = ModelParallelStrategy(1, 1)
    trainer.strategy.broadcast = lambda value, src=0: value
    with pytest.raises(UserError, match="written by ShardedStrategy"):
        LastCheckpoint().setup(trainer, LightningModule(), "fit")


def write_and_be_killed(trainer: Any, place: Path, renames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write where folders cannot be swapped, and end before another rename, or before anything is removed then."""
    left = [renames]
    rename = os.rename

    def counted(source: Any, goal: Any) -> None:
        if str(source).endswith(".tmp"):  # a file inside of it
            return rename(source, goal)
        if not left[0]:
            end()
        left[0] -= 1
        rename(source, goal)

    def remove(folder: Any, **_: Any) -> None:
        if left[0] == 0 and Path(folder).is_dir():
            end()

    with killed(monkeypatch) as patched, pytest.raises(CheckpointError, match="Killed"):
        patched.setattr(whole_folder, "_exchange", lambda one, other: False)
        patched.setattr(whole_folder.os, "rename", counted)
        patched.setattr(whole_folder.shutil, "rmtree", remove)
        write(trainer, place)
    assert place.exists() == (renames != 1)


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_killed_between_the_renames_of_a_file_system_that_cannot_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    trainer: Any = OneRank(tmp_path)
    last, best = tmp_path / "checkpoints" / "last.ckpt", tmp_path / "checkpoints" / "best-step=3.ckpt"
    for place in (last, best):
        trainer.weight = torch.ones(3)
        write(trainer, place)
        trainer.weight = torch.full((3,), 2.0)
        write_and_be_killed(trainer, place, renames, monkeypatch)
    found = LastCheckpoint()._find_last_checkpoints(trainer)  # Lightning asks before anything is set up
    assert found == {str(last.resolve())}
    expected = 2.0 if renames == 2 else 1.0
    assert content(last) == expected, "whole: the new one where it was in its place"
    assert LastCheckpoint()._find_last_checkpoints(trainer) == found, "another rank asks too"
    trainer.strategy.broadcast = lambda value, src=0: value
    BestCheckpoint(dirpath=str(last.parent)).setup(trainer, LightningModule(), "fit")
    assert content(best) == expected and (best / PLAIN_VALUES).is_file()
    assert sorted(path.name for path in last.parent.iterdir()) == [best.name, "last.ckpt"], "nothing is left over"
