"""A checkpoint of many files takes its place when it is complete, and never otherwise."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.distributed.checkpoint.api import CheckpointException

from callbacks.checkpointing import LastCheckpoint
from callbacks.whole_checkpoint import PLAIN_VALUES
from datamodules.records import UserError
from lightning_modules.whole_folder import partial_of


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
