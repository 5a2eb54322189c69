"""A PATH of programs that stand in for a cluster's, and write down how they were called."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TOKEN = "a-secret-of-some-length"
START = """#!/bin/sh
exec "{python}" -S "{file}" "$@"
"""  # a first line cannot name a path with a space
RECORD = """
import json, os, sys
names = ("CUDA_VISIBLE_DEVICES", "SIGHTSOUND_SERVERS", "SIGHTSOUND_SERVER_TOKEN", "MASTER_ADDR", "SLURM_LOCALID")
program = os.path.basename(sys.argv[0]).removesuffix(".py")
record = dict(program=program, args=sys.argv[1:], env={{n: os.environ.get(n) for n in names}})
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
        self.program("squeue", f"print(open({str(folder / 'state')!r}).read())")
        self.program("scontrol", "print(*('node1', 'node2') if sys.argv[1] == 'show' else '', sep='\\n')")
        (folder / "state").write_text("RUNNING")

    def program(self, name: str, text: str = "") -> None:
        path = self.folder / name
        file = path.with_name(f"{name}.py")
        file.write_text(RECORD.format(calls=self.calls) + text)
        path.write_text(START.format(python=sys.executable, file=file))
        path.chmod(0o755)

    def start(self, script: str, *args: str, **variables: str) -> subprocess.Popen[str]:
        """Start a launch file in a folder that has nothing else, as a job of SLURM that has the number 7."""
        if not (self.folder / "launch").exists():
            shutil.copytree(ROOT / "launch", self.folder / "launch")
        return self._start(self.folder, script, *args, PATH=f"{self.folder}:/usr/bin:/bin", ROOT="r", **variables)

    def start_for_real(self, script: str, *args: str, **variables: str) -> subprocess.Popen[str]:
        """Start a launch file with this environment's Python."""
        path = f"{self.folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HOME": os.environ["HOME"]} | variables
        return self._start(ROOT, script, *args, PATH=path, **variables)

    def _start(self, folder: Path, script: str, *args: str, **variables: str) -> subprocess.Popen[str]:
        job = {"SLURM_SUBMIT_DIR": str(folder), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "MODEL": "m"}
        environment = job | {"SIGHTSOUND_SERVER_TOKEN": TOKEN} | variables
        command: Any = ["bash", f"launch/{script}", *args]
        with open(self.folder / "said", "a") as said:
            return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=said, stderr=said)

    def end_of(self, job: subprocess.Popen[str], seconds: float = 60) -> str:
        """Wait for a job; what all have said."""
        try:
            job.wait(seconds)
        finally:
            job.kill()
        return (self.folder / "said").read_text()

    def called(self, program: str, word: str = "") -> list[dict]:
        found = map(json.loads, self.calls.read_text().splitlines() if self.calls.exists() else ())
        return [call for call in found if call["program"] == program and (not word or word in call["args"])]

    def wait_for(self, program: str, word: str, times: int = 1) -> None:
        deadline = time.monotonic() + 60
        while len(self.called(program, word)) < times:
            assert time.monotonic() < deadline, self.calls.read_text()
            time.sleep(0.02)
