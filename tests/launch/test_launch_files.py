"""What the launch files start, with which devices, addresses and secret, and when they start it again."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOKEN = "a-secret-of-some-length"
RECORD = """#!{python} -S
import json, os, sys
names = ("CUDA_VISIBLE_DEVICES", "SIGHTSOUND_SERVERS", "SIGHTSOUND_SERVER_TOKEN", "MASTER_ADDR", "SLURM_LOCALID")
record = dict(program=os.path.basename(sys.argv[0]), args=sys.argv[1:], env={{n: os.environ.get(n) for n in names}})
with open("{calls}", "a") as file:
    print(json.dumps(record), file=file, flush=True)
"""
SRUN = """
import signal, subprocess
words = sys.argv[1:]
options = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--") and words.index(word) < 5)
command = words[next(at for at, word in enumerate(words) if not word.startswith("--")):]
tasks = int(options["ntasks-per-node"])
children = [
    subprocess.Popen(
        command, env=os.environ | dict(SLURM_LOCALID=str(task), SLURM_PROCID=str(task), SLURM_NTASKS=str(tasks),
        SLURM_NTASKS_PER_NODE=str(tasks), SLURM_NODEID="0", SLURM_STEP_ID="0")
    )
    for task in range(tasks)
]
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, frame: [child.send_signal(number) for child in children])
codes = [child.wait() for child in children]
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""


class Machine:
    """A PATH of programs that write down how they were called, and do what they are told."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, folder / "calls.jsonl"
        self.program("srun", SRUN)
        self.program("squeue", "print(open('state').read())")
        self.program("scontrol", "print(*('node1', 'node2') if sys.argv[1] == 'show' else '', sep='\\n')")
        (folder / "state").write_text("RUNNING")

    def program(self, name: str, text: str = "") -> None:
        path = self.folder / name
        path.write_text(RECORD.format(python=sys.executable, calls=self.calls) + text)
        path.chmod(0o755)

    def start(self, script: str, *args: str, **variables: str) -> subprocess.Popen[str]:
        names = {"PATH": f"{self.folder}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(self.folder), "SLURM_JOB_ID": "7"}
        own = {"SIGHTSOUND_SERVER_TOKEN": TOKEN, "SLURM_JOB_NODELIST": "node[1-2]", "MODEL": "m", "ROOT": "r"}
        here = self.folder / "launch"
        if not here.exists():
            here.mkdir()
            for file in (ROOT / "launch").iterdir():
                (here / file.name).write_text(file.read_text())
                (here / file.name).chmod(0o755)
        command = ["bash", f"launch/{script}", *args]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, cwd=self.folder, env=names | own | variables, text=True, **pipes)

    def called(self, program: str, word: str = "") -> list[dict]:
        found = map(json.loads, self.calls.read_text().splitlines() if self.calls.exists() else ())
        return [call for call in found if call["program"] == program and (not word or word in call["args"])]

    def wait_for(self, program: str, word: str, times: int = 1) -> None:
        deadline = time.monotonic() + 60
        while len(self.called(program, word)) < times:
            assert time.monotonic() < deadline, self.calls.read_text()
            time.sleep(0.02)


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
    [(signal.SIGUSR1, "RUNNING", 75, True), (signal.SIGTERM, "RUNNING", 75, True), (signal.SIGUSR1, "COMPLETING", 75, False)],
    ids=["time_limit", "preempted", "cancelled"],
)
def test_slurm(machine: Machine, number: int, state: str, status: int, queued: bool) -> None:
    machine.program("python", SLEEPS)
    (machine.folder / "state").write_text(state)
    job = machine.start("slurm.sbatch", "fit", "--config", "grpo.yaml", GPUS="4", SERVERS="1", RANKS="3")
    ready(machine, 4)
    job.send_signal(number)
    said = job.communicate(timeout=60)[0]
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
        "-m inference.vllm_server --model m --host 0.0.0.0 --port 8000 --dtype bfloat16"
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
    said = job.communicate(timeout=60)[0]
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
    said = job.communicate(timeout=60)[0]
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
    said = job.communicate(timeout=60)[0]
    assert (job.returncode, len(machine.called("torchrun"))) == (1, starts), said


def test_a_server_is_started_again(machine: Machine) -> None:
    machine.program("python")
    machine.program("sleep")
    job = machine.start("server.sh", "3", "m", SIGHTSOUND_SERVER_TOKEN="")
    machine.wait_for("python", "inference.vllm_server", 2)
    job.terminate()
    said = job.communicate(timeout=60)[0]
    assert job.returncode == 143 and "rollout server 3 has ended and is started again" in said
    call = machine.called("python")[0]
    assert " ".join(call["args"]) == "-m inference.vllm_server --model m --host 127.0.0.1 --port 8003"
