"""What is left of a run's weights when it is killed."""

import os
import signal
import time
from pathlib import Path

from inference.weight_transfer.weight_directory import WeightDirectory


def test_nothing_is_left_of_a_killed_run(tmp_path: Path):
    """Not even while a loader's worker outlives it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        directory = WeightDirectory.make(tmp_path)
        worker = os.fork()
        if worker == 0:
            time.sleep(8)
            os._exit(0)
        os.write(writing, str(directory.root).encode())
        time.sleep(60)
        os._exit(1)
    root = Path(os.read(reading, 1000).decode())
    (root / "run-1").mkdir()
    assert root.is_dir()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 5
    while root.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_run_that_ended(tmp_path: Path):
    directory = WeightDirectory.make(tmp_path)
    watcher = directory._watcher
    directory.remove()
    assert list(tmp_path.iterdir()) == []
    assert watcher is not None and watcher.poll() == 0


def test_a_running_run_is_left_alone(tmp_path: Path):
    directory = WeightDirectory.make(tmp_path)
    other = WeightDirectory.make(tmp_path)
    assert directory.root.is_dir() and other.root.is_dir()
    other.remove()
    directory.remove()
