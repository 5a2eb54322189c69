"""What the launch files start, with which devices, addresses and secret, and when they start it again."""

import contextlib
import json
import re
import signal
import time
from pathlib import Path

import pytest

from tests.support.cluster import ROOT, TOKEN, Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


SLEEPS = """
import signal, time
if "train.py" in sys.argv or "inference.vllm_server" in sys.argv:
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    open("ready", "a").write(".")
    time.sleep(60)
"""


def ready(machine: Machine, processes: int) -> None:
    deadline = time.monotonic() + 60
    while not (file := machine.folder / "ready").exists() or len(file.read_text()) < processes:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "state", "status", "queued"),
    [
        (signal.SIGUSR1, "RUNNING", 75, True),
        (signal.SIGTERM, "RUNNING", 75, True),
        (signal.SIGUSR1, "COMPLETING", 75, False),
    ],
    ids=["time_limit", "preempted", "cancelled"],
)
def test_slurm(machine: Machine, number: int, state: str, status: int, queued: bool) -> None:
    machine.program("python", SLEEPS)
    (machine.folder / "state").write_text(state)
    job = machine.start("slurm.sbatch", "fit", "--config", "grpo.yaml", GPUS="4", SERVERS="1", RANKS="3")
    ready(machine, 4)
    job.send_signal(number)
    said = machine.end_of(job)
    assert job.returncode == status, said
    assert [call["args"] for call in machine.called("scontrol", "requeue")] == [["requeue", "7"]] * queued
    ranks = machine.called("python", "train.py")
    assert {rank["env"]["SLURM_LOCALID"] for rank in ranks} == {"0", "1", "2"}
    assert {rank["env"]["CUDA_VISIBLE_DEVICES"] for rank in ranks} == {"1,2,3"}
    assert {rank["env"]["MASTER_ADDR"] for rank in ranks} == {"node1"}
    assert {rank["env"]["SIGHTSOUND_SERVERS"] for rank in ranks} == {"[http://node1:8000,http://node2:8000]"}
    expected = "train.py fit --config grpo.yaml --ckpt_path last --trainer.num_nodes 2 --trainer.devices 3"
    assert {" ".join(rank["args"]) for rank in ranks} == {expected}
    (server,) = machine.called("python", "inference.vllm_server")
    assert " ".join(server["args"]) == (
        "-m inference.vllm_server --model m --host 0.0.0.0 --port 8000 --dtype bfloat16 --weight-transfer nccl"
    )
    assert (server["env"]["CUDA_VISIBLE_DEVICES"], server["env"]["SIGHTSOUND_SERVER_TOKEN"]) == ("0", TOKEN)
    words = [word for call in map(json.loads, machine.calls.read_text().splitlines()) for word in call["args"]]
    assert TOKEN not in " ".join(words) + said
    assert left_behind(machine) == []


def left_behind(machine: Machine) -> list[str]:
    """Processes that still run in the machine's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").resolve() == machine.folder:
                found.append(process.name)
    return found


def test_slurm_draws_a_secret_and_ends_as_the_run_does(machine: Machine) -> None:
    machine.program("python", "print('drawn' * 5) if '-c' in sys.argv else sys.exit(3)")
    job = machine.start("slurm.sbatch", "fit", SERVERS="0", RANKS="1", SIGHTSOUND_SERVER_TOKEN="")
    said = machine.end_of(job)
    assert job.returncode == 3 and not machine.called("scontrol", "requeue"), said
    (rank,) = machine.called("python", "train.py")
    assert rank["env"]["SIGHTSOUND_SERVER_TOKEN"] == "drawn" * 5


def test_torchrun_starts_again_when_asked_and_not_when_told_to_end(machine: Machine) -> None:
    machine.program("python", SLEEPS)
    machine.program("torchrun", SLEEPS)
    job = machine.start("torchrun.sh", "fit", HOSTS="a b", NODE="1", GPUS="4", SERVERS="2", RANKS="2")
    ready(machine, 3)
    job.send_signal(signal.SIGUSR1)
    ready(machine, 4)
    job.send_signal(signal.SIGTERM)
    said = machine.end_of(job)
    assert job.returncode == 143, said
    first, second = machine.called("torchrun")
    assert first["args"] == second["args"] and TOKEN not in said + str(first["args"])
    line = " ".join(first["args"])
    assert "--nnodes 2 --node-rank 1 --nproc-per-node 2 --master-addr a " in line
    assert line.endswith("fit --trainer.default_root_dir r --ckpt_path last --trainer.num_nodes 2 --trainer.devices 2")
    assert first["env"]["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert first["env"]["SIGHTSOUND_SERVERS"] == "[http://a:8000,http://a:8001,http://b:8000,http://b:8001]"
    assert {call["env"]["CUDA_VISIBLE_DEVICES"] for call in machine.called("python")} == {"0", "1"}
    assert left_behind(machine) == []


@pytest.mark.parametrize(("checkpoints", "starts"), [(2, 3), (0, 1)])
def test_torchrun_goes_on_after_a_failure_as_long_as_there_are_new_checkpoints(
    machine: Machine, checkpoints: int, starts: int
) -> None:
    script = (ROOT / "launch" / "torchrun.sh").read_text()
    last = machine.folder / "r" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    machine.program(
        "torchrun",
        f"""
import time
left = [line for line in open("{machine.calls}") if '"torchrun"' in line]
time.sleep(0.02)
if len(left) <= {checkpoints}:
    open("{last}", "w").write("whole")
sys.exit(1)
""",
    )
    machine.program("sleep")
    assert re.search(r"^    sleep 5", script, re.MULTILINE)
    job = machine.start("torchrun.sh", "fit", SERVERS="0", RANKS="1", GPUS="1")
    said = machine.end_of(job)
    assert (job.returncode, len(machine.called("torchrun"))) == (1, starts), said


def test_a_server_is_started_again(machine: Machine) -> None:
    machine.program("python")
    machine.program("sleep")
    job = machine.start("server.sh", "3", "m", SIGHTSOUND_SERVER_TOKEN="")
    machine.wait_for("python", "inference.vllm_server", 2)
    job.terminate()
    said = machine.end_of(job)
    assert job.returncode == 143 and "rollout server 3 has ended and is started again" in said
    call = machine.called("python")[0]
    assert " ".join(call["args"]) == "-m inference.vllm_server --model m --host 127.0.0.1 --port 8003"
