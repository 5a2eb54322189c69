"""One run at a time writes to a folder, and a killed one does not keep it."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.errors import UserError
from runtime.folder_claim import CLAIM, claimed

ROOT = Path(__file__).parents[2]
HOLD = """
import os, sys, time
from pathlib import Path
from runtime.folder_claim import claimed
with claimed(Path(sys.argv[1]), "--output"):
    child = os.fork()  # as a loader's worker
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


def test_a_folder_is_kept_from_others_until_its_process_is_killed(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-S", "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    worker = int(other.stdout.readline())
    try:
        named = rf"another run \(process {other.pid} on .*with --output"
        with pytest.raises(UserError, match=named), claimed(tmp_path, "--output"):
            pass
        other.kill()
        other.wait()
        os.kill(worker, 0)  # is still there and has the file open
        with claimed(tmp_path, "--output"):
            pass
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
        os.kill(worker, signal.SIGKILL)


def test_a_folder_can_be_taken_again_and_one_that_cannot_be_written_is_left_to_others(tmp_path: Path) -> None:
    for _ in range(2):
        with claimed(tmp_path, "--output"):
            assert [path.name for path in tmp_path.iterdir()] == [CLAIM]
        assert list(tmp_path.iterdir()) == []
    with claimed(tmp_path / "missing", "--output"):
        pass


def test_a_file_that_its_holder_removes_while_another_waits_for_it_is_no_claim(tmp_path: Path, monkeypatch) -> None:
    """The second process has opened the file of the first, which ends and removes it before the second locks it."""
    path, lock = tmp_path / CLAIM, fcntl.lockf

    def after_the_other_has_ended(file, operation) -> None:
        monkeypatch.setattr(fcntl, "lockf", lock)
        path.unlink()
        lock(file, operation)

    monkeypatch.setattr(fcntl, "lockf", after_the_other_has_ended)
    with claimed(tmp_path, "--output"):
        assert path.read_text().startswith(f"process {os.getpid()} on ")
