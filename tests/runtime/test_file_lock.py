"""Locks with and without help from the file system."""

import errno
import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from runtime.file_lock import LockTimeout, locked

WITHOUT = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EIO, errno.EACCES]


@pytest.fixture(params=[None, *WITHOUT], ids=lambda number: errno.errorcode.get(number, "flock"))
def file_system(request, monkeypatch):
    def flock(file, operation):
        raise OSError(request.param, os.strerror(request.param))

    if request.param is not None:
        monkeypatch.setattr(fcntl, "flock", flock)


def test_one_at_a_time(file_system, tmp_path: Path):
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with locked(tmp_path / "lock", 10):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_nobody_waits_for_ever(file_system, tmp_path: Path):
    with locked(tmp_path / "lock", 10), pytest.raises(LockTimeout), locked(tmp_path / "lock", 0.1):
        pytest.fail("two hold it")
    with locked(tmp_path / "lock", 0.1):
        pass  # it is free again


def test_what_a_killed_process_left_behind_counts_no_more(tmp_path: Path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    left = tmp_path / "lock.held"
    left.touch()
    os.utime(left, (time.time() - 100, time.time() - 100))
    with locked(tmp_path / "lock", 0, longest=60):
        pass
    left.touch()
    with pytest.raises(LockTimeout), locked(tmp_path / "lock", 0.2, longest=60):
        pytest.fail("it was not old enough")
