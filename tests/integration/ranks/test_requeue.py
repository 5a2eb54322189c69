"""A run that is preempted is queued again, goes on by itself, and ends as one that never was."""

import json
import signal
import time
from pathlib import Path

import pytest
import yaml

from tests.integration.interruptions.test_sigkill import STEPS, config, fit, steps
from tests.support.cluster import Machine


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "number"),
    [("slurm.sbatch", signal.SIGUSR1), ("slurm.sbatch", signal.SIGTERM), ("torchrun.sh", signal.SIGUSR1)],
)
def test_the_metrics_are_the_same(world: Path, tmp_path: Path, script: str, number: signal.Signals) -> None:
    whole, root = tmp_path / "whole", tmp_path / "run"
    fit(config("sft", world, whole), whole)
    values = config("sft", world, root)
    values["trainer"]["callbacks"].append({"class_path": "tests.support.interruption.Leisurely"})
    root.mkdir()
    (root / "config.yaml").write_text(yaml.safe_dump(values))
    machine = Machine(tmp_path)
    machine.program("scontrol", "print('127.0.0.1' if sys.argv[1] == 'show' else '')")
    settings = {"GPUS": "1", "SERVERS": "0", "RANKS": "1", "ROOT": str(root), "SLURM_NODELIST": "127.0.0.1"}
    command = script, "fit", "--config", str(root / "config.yaml")
    job = machine.start_for_real(*command, **settings)
    try:
        lines, deadline = root / "steps.jsonl", time.monotonic() + 500
        while not lines.exists() or len(lines.read_text().splitlines()) < 3:
            assert job.poll() is None and time.monotonic() < deadline, (tmp_path / "said").read_text()
            time.sleep(0.05)
        job.send_signal(number)
        said = machine.end_of(job, 500)
    finally:
        job.kill()
    reached = len(steps(root))
    assert "SIGUSR1: training ends after this batch" in said
    if script == "slurm.sbatch":
        assert job.returncode == 75 and 3 <= reached < STEPS, said
        assert [call["args"] for call in machine.called("scontrol", "requeue")] == [["requeue", "7"]]
        job = machine.start_for_real(*command, **settings)  # as SLURM does
        said = machine.end_of(job, 500)
    assert job.returncode == 0, said
    expected, found = steps(whole), steps(root)
    assert [record["step"] for record in found] == list(range(1, STEPS + 1))  # nothing twice, nothing left out
    for record, same in zip(found, expected, strict=True):
        assert {**record, "metrics": None} == {**same, "metrics": None}
        assert record["metrics"] == pytest.approx(same["metrics"], abs=1e-5)
    notes = [json.loads((folder / "best" / "training.json").read_text()) for folder in (whole, root)]
    assert notes[0] == notes[1]
