"""A group of processes on the CPU that send tensors to each other, beside any group that a process is in already."""

import datetime
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.distributed import BroadcastOptions, PrefixStore, ProcessGroupGloo, TCPStore  # type: ignore[attr-defined]

POLL_SECONDS = 0.0005


class GlooGroup:
    """One sender, of rank 0, and those that receive.

    Nothing of ``torch.distributed``'s own groups is touched: a trainer's ranks do not notice.
    """

    def __init__(self, store: TCPStore, rank: int, size: int, address: str, seconds: float) -> None:
        """Meet the others.

        Args:
            store: Where they meet.
            rank: Of this process.
            size: Processes of the group.
            address: Of this machine, at which the others reach it.
            seconds: How long the others may take, now and in each transfer.

        Raises:
            RuntimeError: Not all have come in time.
        """
        gloo: Any = ProcessGroupGloo  # torch's stubs know it in part
        options = gloo._Options()
        options._timeout = datetime.timedelta(seconds=seconds)
        options._devices = [gloo.create_device(hostname=address)]
        self._store = store
        self._under_way: deque[Any] = deque()
        self._group: Any = gloo(PrefixStore("weights", store), rank, size, options)

    def broadcast(self, content: Tensor) -> None:
        """Begin to send (rank 0) or to receive bytes.

        Args:
            content: The bytes, or where they go; untouched until :meth:`wait` has returned.
        """
        if self._group is None:
            raise RuntimeError("this group was left")
        options = BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        self._under_way.append(self._group.broadcast([content], options))

    def wait(self, given_up: Callable[[], bool] = lambda: False) -> None:
        """Wait for the oldest broadcast that was begun and not waited for.

        Args:
            given_up: Asked again and again whether another process will not take part, whose connection lives.

        Raises:
            RuntimeError: Another process is gone, takes too long, or has given up.
        """
        while not self._under_way[0].is_completed():
            if given_up():
                raise RuntimeError("another process has given up")
            time.sleep(POLL_SECONDS)
        self._under_way.popleft().wait()

    def close(self) -> None:
        """Leave; those that wait for this process hear of it. Harmless a second time."""
        group, self._group = self._group, None
        under_way, self._under_way = self._under_way, deque()
        if group is not None:
            threading.Thread(target=_let_go, args=(group, under_way), daemon=True).start()


def _let_go(group: Any, under_way: deque[Any]) -> None:
    """Forget a group: its connections end with what knows them.

    That would wait, and hold up all threads of the process, for a broadcast that is stuck: its time limit comes first.
    """
    group.abort()
    while any(not work.is_completed() for work in under_way):
        time.sleep(0.05)
    under_way.clear()


def listen(address: str, seconds: float) -> TCPStore:
    """Open a place to meet on a free port of an address.

    Args:
        address: Of this machine.
        seconds: How long others may take.

    Raises:
        OSError: Nothing can listen there.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listening:
        listening.bind((address, 0))
        listening.listen()
        port = listening.getsockname()[1]
        return TCPStore(
            address,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=datetime.timedelta(seconds=seconds),
            master_listen_fd=listening.detach(),
        )


def visit(address: str, port: int, seconds: float) -> tuple[TCPStore, str]:
    """Go to where others meet.

    Args:
        address: Where.
        port: Its port.
        seconds: How long to try.

    Returns:
        The place, and the address of this machine on the way to it.
    """
    store = TCPStore(address, port, wait_for_workers=False, timeout=datetime.timedelta(seconds=seconds))
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect((address, port))
        return store, str(route.getsockname()[0])
