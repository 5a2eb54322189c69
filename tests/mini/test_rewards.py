"""The rewards of a GRPO run that was interrupted."""

from pathlib import Path

import pytest

from mini.summary import merge_metrics, rewards
from runtime.errors import UserError


def _sitting(run: Path, number: int, rows: str | None) -> None:
    folder = run / "metrics" / f"version_{number}"
    folder.mkdir(parents=True)
    if rows is not None:
        (folder / "metrics.csv").write_text(rows)


def test_sittings_are_joined_by_step(tmp_path: Path) -> None:
    _sitting(tmp_path, 2, "step,train/reward\n0,0.5\n1,1.0\n1,\n2,9.0\n")
    _sitting(tmp_path, 10, "step,train/reward,val/accuracy\n2,1.5,\n2,,0.5\n3,2.0,\n")
    metrics = merge_metrics(tmp_path)
    assert metrics.read_text() == "step,train/reward,val/accuracy\n0,0.5,\n1,1.0,\n2,1.5,0.5\n3,2.0,\n"
    assert rewards(metrics, steps=2) == (0.75, 1.75)


def test_killed_before_the_first_step(tmp_path: Path) -> None:
    _sitting(tmp_path, 0, None)  # the server did not answer: a folder without metrics
    _sitting(tmp_path, 1, "step,lr\n0,0.1\n")
    _sitting(tmp_path, 2, "step,train/reward\n0,1.0\n")
    assert rewards(merge_metrics(tmp_path), steps=1) == (1.0, 1.0)


def test_a_run_without_a_step_is_named(tmp_path: Path) -> None:
    _sitting(tmp_path, 0, None)
    with pytest.raises(UserError, match="holds no metrics"):
        merge_metrics(tmp_path)
