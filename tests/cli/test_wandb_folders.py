"""A home that cannot be written is no hindrance to Weights & Biases, whose tables are staged in it otherwise."""

import logging
import os
from pathlib import Path

import pytest
import wandb

from cli.wandb_folders import can_write, find_room
from train import main

VARIABLES = ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")


@pytest.fixture
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home below a file, which not even root can write."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    for variable in (*VARIABLES, "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def test_folders_move_below_the_run(no_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        find_room(no_home / "run")
    places = [Path(os.environ[variable]) for variable in VARIABLES]
    assert [place.relative_to(no_home / "run/wandb-files") for place in places] == [
        Path("data"),
        Path("cache"),
        Path("config"),
    ]
    assert all(map(can_write, places))
    assert f"cannot write {no_home}/file/home/.local/share/wandb" in caplog.text


def test_what_can_be_written_or_was_chosen_stays(no_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(no_home / "home"))
    monkeypatch.setenv("WANDB_CACHE_DIR", "/proc/nowhere")
    find_room(no_home / "run")
    assert [os.environ.get(variable) for variable in VARIABLES] == [None, "/proc/nowhere", None]


def test_a_table_is_logged(no_home: Path) -> None:
    boring = "lightning.pytorch.demos.boring_classes.Boring"
    trainer = {
        "accelerator": "cpu", "max_steps": 1, "limit_val_batches": 0, "enable_progress_bar": "false",
        "enable_model_summary": "false", "default_root_dir": no_home / "run", "logger": "WandbLogger",
        "logger.save_dir": no_home / "run", "logger.offline": "true",
        "callbacks": "[{class_path: tests.cli.table_at_end.TableAtEnd}]",
    }  # fmt: skip
    classes = [f"--model={boring}Model", f"--data={boring}DataModule"]
    main(["fit", *classes, *(f"--trainer.{name}={value}" for name, value in trainer.items())])
    assert wandb.run is None
    assert list((no_home / "run").glob("wandb/offline-run-*/files/media/table/*.json"))
