"""A stage starts its own Weights & Biases service where its launcher has left another one in the environment."""

import os

import pytest

from cli.wandb_service import leave_inherited_service
from train import main

OF_A_SWEEP = {"WANDB_SWEEP_ID": "sweep", "WANDB_RUN_ID": "run", "WANDB_SWEEP_PARAM_PATH": "/nowhere"}


@pytest.mark.parametrize(
    "token", [f"3-{os.getppid()}-unix-/tmp/socket", "3-1-tcp-localhost-4000", "of another version"]
)
def test_the_service_of_another_process_is_left(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (OF_A_SWEEP | {"WANDB_SERVICE": token}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main(["fit", "--config", "nothing.yaml"])
    assert {name: value for name, value in os.environ.items() if name in {*OF_A_SWEEP, "WANDB_SERVICE"}} == OF_A_SWEEP


def test_a_service_of_this_process_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook that runs two stages."""
    monkeypatch.setenv("WANDB_SERVICE", token := f"3-{os.getpid()}-unix-/tmp/socket")
    leave_inherited_service()
    assert os.environ["WANDB_SERVICE"] == token
