"""Whose a rollout server is: a second run on this machine must not change the weights under the first one."""

import contextlib
import hashlib
import os
import socket
import tempfile
import weakref
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from inference.vllm.client import ServerRefused
from runtime.file_lock import try_flock


class ServerClaim:
    """Servers that belong to this process until it releases them or ends, however that happens."""

    def __init__(self) -> None:
        """Claim nothing yet."""
        self._files: list[IO[str]] = []
        forgotten = weakref.WeakMethod(self.release)
        os.register_at_fork(after_in_child=lambda: (forgotten() or (lambda: None))())  # a worker is not the run

    def take(self, url: str, purpose: str) -> None:
        """Claim a server.

        Args:
            url: Its address.
            purpose: What is said to others of this run.

        Raises:
            ServerRefused: It is another run's.
        """
        path = Path(tempfile.gettempdir()) / f"sightsound-r1-{os.getuid()}-{_name(url)}.claim"
        try:
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        except OSError:
            return  # the servers' weight versions still show another run, later
        if try_flock(file) is False:
            file.seek(0)
            other = file.read().strip() or "its process is not known"
            file.close()
            raise ServerRefused(
                f"{url} is in use by another run ({other}): every run needs rollout servers of its own; stop that run, "
                "or start another server with another --port"
            )
        self._files.append(file)
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(f"process {os.getpid()}, {purpose}")
            file.flush()

    def release(self) -> None:
        """Give all servers back."""
        for file in self._files:
            with contextlib.suppress(OSError):
                file.close()
        self._files = []


def _name(url: str) -> str:
    """Return a name of a server, the same for all names and addresses of this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = "localhost" if _is_here(host) else host
    return hashlib.sha256(f"{host}:{parts.port or parts.scheme}".encode()).hexdigest()[:16]


def _is_here(host: str) -> bool:
    """Tell whether a name or address is this machine's: nothing can be bound to one of another."""
    with contextlib.suppress(OSError, UnicodeError):
        family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
        return True
    return False
