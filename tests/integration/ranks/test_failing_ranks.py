"""When one rank fails, the others end with it within seconds, whoever launched them and however it happened."""

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

import cli.ranks
from tests.integration.ranks import failing_rank
from tests.support.ranks import start_ranks

ROOT = Path(__file__).resolve().parents[3]
Launch = Callable[[str], subprocess.Popen[bytes]]


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


@pytest.mark.parametrize(
    ("how", "rank", "statuses", "said"),
    [
        ("raise", 0, [1, 1], "has failed or was killed"),
        ("kill", 1, [1, -9], "has failed or was killed"),
        ("told", 1, [143, 143], "was ended by SIGTERM"),
    ],
)
def test_ranks_without_a_launcher_end_together(
    tmp_path: Path, how: str, rank: int, statuses: list[int], said: str
) -> None:
    """The healthy one keeps what it has and ends as the other did."""
    ranks = start_ranks(failing_rank.rank_by_hand, tmp_path, how, rank, folder=tmp_path)
    try:
        all_ended_within(tmp_path, 10)
        for process in ranks:
            process.join(10)
        assert [process.exitcode for process in ranks] == statuses
        assert (tmp_path / f"log-{1 - rank}").read_text().count(f"rank {rank} {said}") == 1
        assert (tmp_path / f"kept-{1 - rank}").read_text() == str(statuses[1 - rank])
    finally:
        for process in ranks:
            process.kill()


def test_a_rank_that_hangs_is_named_and_all_end(tmp_path: Path) -> None:
    """The one that waits for it is deaf: gloo's barrier has half an hour."""
    ranks = start_ranks(failing_rank.rank_by_hand, tmp_path, "hang", 1, folder=tmp_path)
    try:
        all_ended_within(tmp_path, 60)
        for process in ranks:
            process.join(10)
        assert [process.exitcode for process in ranks] == [1, 1]
        said = "".join((tmp_path / f"log-{rank}").read_text() for rank in range(2))
        assert said.count("no rank has come further for 2 s, so all ranks end; rank 1 did not come") == 1, said
        assert "rank 1 in training_step (failing_rank.py:" in said and "rank 0 in barrier (distributed_c10d.py:" in said
        assert "rank 1 has failed or was killed" not in said
    finally:
        for process in ranks:
            process.kill()


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launch]:
    """Starts shell commands in the place of ranks that this process has launched."""
    launched: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(cli.ranks, "_launched", launched)

    def start(command: str) -> subprocess.Popen[bytes]:
        launched.append(subprocess.Popen(["sh", "-c", command]))
        return launched[-1]

    yield start
    for process in launched:
        process.kill()
        process.wait()


def test_the_first_rank_waits_for_those_it_launched(tmp_path: Path, launch: Launch) -> None:
    launch(f"sleep 0.3; echo whole > {tmp_path}/checkpoint")
    cli.ranks.end_launched(10)
    assert (tmp_path / "checkpoint").read_text() == "whole\n"


def test_launched_ranks_that_do_not_end_are_told_to_and_then_killed(
    launch: Launch, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.ranks, "_SECONDS_UNASKED", 0.2)
    hears = launch("exec sleep 60")
    deaf = launch("trap '' TERM; while true; do sleep 1; done")
    begun = time.monotonic()
    cli.ranks.end_launched(0.6)
    assert time.monotonic() - begun < 2
    assert [hears.wait(1), deaf.wait(1)] == [-signal.SIGTERM, -signal.SIGKILL]
    assert capfd.readouterr().err == "train.py: killed after 1 s in which they did not end: local ranks 2\n"


def test_a_launched_rank_that_fails_is_reported_and_nobody_is_killed(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the second of two nodes of two ranks each; Lightning's observer, which kills, is given nobody to watch."""

    def start(launcher: _SubprocessScriptLauncher) -> None:
        launcher.procs = [subprocess.Popen(["sh", "-c", "kill -TERM $$"])]

    monkeypatch.setattr(_SubprocessScriptLauncher, "_call_children_scripts", start)
    lost: queue.Queue[tuple[int, int]] = queue.Queue()
    environment: Any = SimpleNamespace(node_rank=lambda: 1)
    launcher = cli.ranks.RankLauncher(
        _SubprocessScriptLauncher(environment, num_processes=2, num_nodes=2), lambda *found: lost.put(found)
    )
    launcher._call_children_scripts()
    assert launcher.procs == []
    assert lost.get(timeout=5) == (3, 143)


def test_a_run_has_failed_where_a_launched_rank_has(launch: Launch) -> None:
    launch("sleep 0.2; exit 3")
    with pytest.raises(SystemExit, match="local rank 1 ended with status 3"):
        cli.ranks.run_rank(lambda: None)


def test_launched_ranks_end_with_their_launcher(tmp_path: Path) -> None:
    """Without any callback: the system itself ends a rank whose launcher was killed."""
    command = [sys.executable, "-m", "tests.integration.ranks.failing_rank", str(tmp_path), "kill", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        all_ended_within(tmp_path, 10)
