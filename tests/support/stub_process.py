"""The stub endpoint in a process of its own, so that it can be killed and started again."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.stub_endpoint import FAULTS

ROOT = Path(__file__).parents[2]
SEEDS = (15, 8, 7)
"""Of the processes: all faults are among the first six requests of the first and the first five of the second."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class StubProcess:
    """A fifth of its requests fail, in all ways in turn; it has the same address whenever it is started."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        options = {"port": self.port, "seed": SEEDS[self.starts], "latency": 0.1, "fault-rate": 0.2, "hang": 0.6}
        command = [sys.executable, "-m", "benchmarks.stub_endpoint", "--journal"]
        with open(self.directory / f"journal{self.starts}", "wb") as journal:
            self.process = subprocess.Popen(
                [*command, *(f"--{name}={value}" for name, value in options.items())], cwd=ROOT, stdout=journal
            )
        self.starts += 1
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        raise AssertionError("the stub did not start")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def die_for_a_while(self) -> None:
        """Be killed under running requests and come back on the same port."""
        self.kill()
        time.sleep(0.5)
        self.start()

    def counts(self) -> Counter[str]:
        """How requests were answered by all processes."""
        lines = [line for file in self.directory.glob("journal*") for line in file.read_text().splitlines()]
        return Counter(line for line in lines if line in (*FAULTS, "answered"))

    @contextlib.contextmanager
    def dying(self, times: list[Callable[[], bool]]) -> Iterator[None]:
        """Die whenever the next of some conditions has come true, in the background.

        Raises:
            AssertionError: They did not all come true.
        """
        left = list(times)
        over = threading.Event()

        def watch() -> None:
            while left and not over.is_set():
                if left[0]():
                    self.die_for_a_while()
                    del left[0]
                time.sleep(0.01)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
        assert not left, "it was over before the endpoint was killed"

    def __enter__(self) -> "StubProcess":
        self.directory.mkdir(parents=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


OUTLASTING = ["--model.init_args.endpoint.retry.attempts=60", "--model.init_args.endpoint.retry.max_delay=1"]
"""Options of a stage that waits for about a minute for its endpoint."""
