"""Ctrl-C of a process whose main thread is in an operation that never returns."""

import ctypes
import os
import signal
import time
from pathlib import Path

import pytest

import runtime.second_signal
from cli.ending import ended_by_signals
from runtime.uninterrupted import uninterrupted
from tests.integration.ranks.test_failing_ranks import wait_for
from tests.support.ranks import forked


def deaf(folder: Path) -> None:
    """Wait in C for a lock that this thread has itself, which no signal interrupts."""
    runtime.second_signal.SECONDS_TO_HEAR = 0.3
    lock, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    with ended_by_signals():
        libc.pthread_mutex_lock(lock)
        (folder / "ready").write_text("yes")
        libc.pthread_mutex_lock(lock)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_is_answered_and_the_second_ends_it(tmp_path: Path, number: signal.Signals, status: int) -> None:
    log = tmp_path / "log"
    process = forked(deaf, tmp_path, log=log)
    try:
        wait_for(tmp_path / "ready", 300)
        os.kill(process.pid or 0, signal.SIGUSR1)  # a scheduler's, who means the same by the next one
        os.kill(process.pid or 0, number)
        assert f"{number.name} has come, but an operation has not returned" in wait_for(log)
        time.sleep(1.5)
        assert process.is_alive()
        os.kill(process.pid or 0, number)
        process.join(20)
        assert process.exitcode == status
        assert f"ended at once by a further {number.name}" in log.read_text()
    finally:
        process.kill()


def test_who_hears_is_not_ended() -> None:
    """Two signals while something is written whole, and a worker's own ones."""
    with pytest.raises(SystemExit) as ended, ended_by_signals(), uninterrupted():
        if (child := os.fork()) == 0:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            os._exit(0)
        os.waitpid(child, 0)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        time.sleep(1.5)
    assert ended.value.code == 130
