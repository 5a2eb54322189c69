"""Work that goes on in a thread."""

import threading

import pytest

from runtime.ahead import Ahead


def test_a_failure_is_raised_where_it_is_waited_for() -> None:
    def fail() -> None:
        raise ValueError("of the thread")

    work = Ahead(fail)
    for wait in (work.result, work.join):
        with pytest.raises(ValueError, match="of the thread"):
            wait()


def test_nobody_has_to_wait_for_its_end() -> None:
    goes_on = threading.Event()
    work = Ahead(lambda: goes_on.wait(60) and 3)
    assert not work.join(0.01) and work.seconds == 0
    goes_on.set()
    assert work.result() == 3 and work.join() and work.seconds > 0
