"""Two ranks of train.py under each launcher: a signal to one of them ends all in order, and the run goes on later."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.integration.ranks.test_failing_ranks import is_alive, wait_for
from train import main

ROOT = Path(__file__).resolve().parents[3]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node=2"]


def slurm(rank: int, port: int) -> dict[str, str]:
    ids = {"PROCID": rank, "LOCALID": rank, "NODEID": 0, "NODELIST": "localhost", "JOB_ID": 7, "STEP_ID": 0}
    tasks = {"NTASKS": 2, "NTASKS_PER_NODE": 2, "JOB_NAME": "train"}
    own = {f"SLURM_{name}": str(value) for name, value in (ids | tasks).items()}
    return own | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("launcher", ["lightning", "torchrun", "slurm"])
def test_what_comes_to_one_rank_ends_all(tmp_path: Path, launcher: str, number: signal.Signals) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stage = [
        "fit",
        "--model=tests.integration.ranks.patient_module.Patient",
        f"--model.folder={tmp_path}",
        "--data=lightning.pytorch.demos.boring_classes.BoringDataModule",
        "--trainer.accelerator=cpu",
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.limit_val_batches=0",
        "--trainer.enable_progress_bar=false",
        "--trainer.callbacks=callbacks.LastCheckpoint",
        "--trainer.callbacks.every_n_batches=2",
    ]
    several = [*stage, "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_steps=1000"]
    before = [*TORCHRUN, f"--master-port={port}"] if launcher == "torchrun" else []
    command = [sys.executable, *before, str(ROOT / "train.py"), *several]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    own = [slurm(rank, port) for rank in range(2)] if launcher == "slurm" else [{}]
    with open(tmp_path / "said", "w") as said:
        started = [
            subprocess.Popen(command, cwd=tmp_path, env=environment | variables, stdout=said, stderr=said)
            for variables in own
        ]
    try:
        ranks = [int(wait_for(tmp_path / f"rank-{rank}", 300)) for rank in range(2)]
        time.sleep(0.5)  # some more batches, a checkpoint
        begun = time.monotonic()
        os.kill(ranks[1], number)
        statuses = [process.wait(30) for process in started]
        while any(map(is_alive, ranks)):
            assert time.monotonic() - begun < 15
            time.sleep(0.05)
    finally:
        for process in started:
            process.kill()
    told = number == signal.SIGTERM
    expected = {"lightning": [143 if told else 1], "torchrun": [1], "slurm": [143, 143] if told else [1, -9]}
    assert statuses == expected[launcher]
    sentence = (
        "SIGTERM has come to another rank: training ends after this batch"
        if told
        else "rank 1 has failed or was killed"
    )
    assert (tmp_path / "said").read_text().count(sentence) == 1
    reached = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    again = main([*stage, "--ckpt_path=last", f"--trainer.max_steps={reached + 2}"])
    assert again.trainer.global_step == reached + 2 > 4
