"""When one rank fails, the others end with it within seconds, whoever launched them and however it happened."""

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli import failing_rank

ROOT = Path(__file__).resolve().parents[2]


def wait_for(file: Path, seconds: float = 120) -> str:
    deadline = time.monotonic() + seconds
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline, f"{file.name} did not come"
        time.sleep(0.05)
    return file.read_text()


def is_alive(pid: int) -> bool:
    """Running, not only waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def all_ended_within(folder: Path, seconds: float) -> None:
    failed = float(wait_for(folder / "failed"))
    pids = [int(wait_for(folder / f"rank-{rank}")) for rank in range(2)]
    while any(map(is_alive, pids)):
        assert time.time() - failed < seconds, f"alive after {seconds} s: {[p for p in pids if is_alive(p)]}"
        time.sleep(0.05)


@pytest.mark.parametrize(("how", "rank"), [("raise", 0), ("kill", 0), ("raise", 1), ("kill", 1)])
def test_ranks_without_a_launcher_end_together(tmp_path: Path, how: str, rank: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")  # imports once, forks for each rank
    context.set_forkserver_preload(["tests.cli.failing_rank", "train"])
    ranks = [
        context.Process(target=failing_rank.rank_by_hand, args=(tmp_path, how, rank, own, port)) for own in range(2)
    ]
    for process in ranks:
        process.start()
    try:
        all_ended_within(tmp_path, 10)
        for process in ranks:
            process.join(10)
            assert process.exitcode not in (0, None)
        assert f"rank {rank} has failed or was killed" in (tmp_path / f"log-{1 - rank}").read_text()
    finally:
        for process in ranks:
            process.kill()


def test_launched_ranks_end_with_their_launcher(tmp_path: Path) -> None:
    """Without any callback: the system itself ends a rank whose launcher was killed."""
    command = [sys.executable, "-m", "tests.cli.failing_rank", str(tmp_path), "kill", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        all_ended_within(tmp_path, 10)
