"""A SLURM allocation with other tasks than the run needs is one sentence with the way out."""

from pathlib import Path

import pytest

from cli.config_files import ConfigError
from cli.slurm import check_tasks
from train import main

PARTS = (("model", "Model"), ("data", "DataModule"))
SRUN = {"SLURM_STEP_ID": "0"}


@pytest.mark.parametrize(
    ("devices", "nodes", "environment"),
    [
        (8, 1, {}),
        (8, 1, {"SLURM_NTASKS": "8"} | SRUN),
        (4, 2, {"SLURM_NTASKS": "8"} | SRUN),
        (1, 1, {"SLURM_NTASKS": "1"} | SRUN),
        (1, 1, {"SLURM_NTASKS": "8"}),  # one process in a batch script's larger allocation
        (8, 1, {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "interactive"}),
    ],
)
def test_allocations_that_fit(devices: int, nodes: int, environment: dict[str, str]) -> None:
    check_tasks(devices, nodes, environment)


@pytest.mark.parametrize(
    ("devices", "nodes", "environment", "said"),
    [
        (8, 1, {"SLURM_NTASKS": "1"} | SRUN, r"has 1 task \(SLURM_NTASKS\).*needs srun to start 8"),
        (1, 1, {"SLURM_NTASKS": "8"} | SRUN, r"has 8 tasks \(SLURM_NTASKS\).*needs srun to start 1"),
        (8, 1, {"SLURM_NTASKS": "8"}, "was entered without srun"),
        (4, 2, {"SLURM_NTASKS": "4"} | SRUN, r"srun --nodes=2 --ntasks-per-node=4 .*env -u SLURM_NTASKS"),
    ],
)
def test_allocations_that_do_not_fit(devices: int, nodes: int, environment: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_tasks(devices, nodes, environment)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"SLURM_NTASKS": "4"}, "--ntasks=4"),
        ({"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"} | SRUN, "has 4 tasks"),
    ],
)
def test_the_command_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environment, said: str
) -> None:
    ids = {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "a"}
    for name, value in (ids | environment).items():
        monkeypatch.setenv(name, value)
    classes = [f"--{part}=lightning.pytorch.demos.boring_classes.Boring{name}" for part, name in PARTS]
    trainer = ["--trainer.accelerator=cpu", "--trainer.devices=2", f"--trainer.default_root_dir={tmp_path}"]
    with pytest.raises(SystemExit):
        main(["fit", *classes, *trainer])
    error = capsys.readouterr().err
    assert said in error and "--ntasks-per-node=2 " in error and "env -u SLURM_NTASKS" in error
    assert "Traceback" not in error
