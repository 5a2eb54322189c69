"""The rewards of a GRPO run that was interrupted."""

from pathlib import Path

from mini.__main__ import rewards


def test_sittings_are_joined_by_step(tmp_path: Path) -> None:
    sittings = {2: "step,train/reward\n0,0.5\n1,1.0\n1,\n2,9.0\n", 10: "step,train/reward\n2,1.5\n3,2.0\n"}
    for sitting, rows in sittings.items():
        folder = tmp_path / "metrics" / f"version_{sitting}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(rows)
    assert rewards(tmp_path, steps=2) == (0.75, 1.75)


def test_killed_before_the_first_step(tmp_path: Path) -> None:
    for sitting, rows in enumerate(["step,lr\n0,0.1\n", "step,train/reward\n0,1.0\n"]):
        folder = tmp_path / "metrics" / f"version_{sitting}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(rows)
    assert rewards(tmp_path, steps=1) == (1.0, 1.0)
