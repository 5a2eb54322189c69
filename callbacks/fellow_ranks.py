"""No rank outlives another that failed: whoever waits for it in a collective would keep its GPU for half an hour."""

import contextlib
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

GRACE = 3.0
"""Seconds in which a rank may end by itself, with a message of its own, after another one has."""

ENDING = 60.0
"""Seconds after which a rank that is ending by itself is ended."""

_DONE = b"done"
_TOKEN_BYTES = 32


class FellowRanks(Callback):
    """Ends this process when another rank of the run has failed or was killed, whoever launched them.

    Each rank holds a connection to the first one. The system closes it when a process ends, however that happens;
    a rank that is through says so before. So a failure is seen at once, also from within a collective of NCCL, in which
    no Python code of the main thread runs.
    """

    def __init__(self) -> None:
        self._connections: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._ending = threading.Event()
        os.register_at_fork(after_in_child=self._forget)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size == 1 or self._connections or self._listener is not None:
            return
        self._ending = threading.Event()
        rank = trainer.global_rank
        host = os.environ.get("MASTER_ADDR", "127.0.0.1") if trainer.num_nodes > 1 else "127.0.0.1"
        address: Any = None
        if rank == 0:
            self._listener = socket.create_server(("" if trainer.num_nodes > 1 else host, 0), backlog=1024)
            address = (host, self._listener.getsockname()[1], secrets.token_bytes(_TOKEN_BYTES))
        host, port, token = trainer.strategy.broadcast(address)
        if rank == 0:
            watch = threading.Thread(target=self._watch_all, args=(token, self._ending), name="ranks", daemon=True)
        else:
            try:
                connection = socket.create_connection((host, port), timeout=30)
            except OSError as error:
                rank_zero_warn(f"rank {rank} cannot reach rank 0 at {host}:{port} ({error}): it would not see it fail")
                return
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.sendall(token + rank.to_bytes(4, "big"))
            self._connections = [connection]
            watch = threading.Thread(target=self._watch_first, args=(connection, self._ending), daemon=True)
        watch.start()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end(_DONE)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end(b"")

    def _end(self, last_word: bytes) -> None:
        """Part from the others: in order with a last word, as a failure without one."""
        self._ending.set()
        connections, self._connections = self._connections, []
        listener, self._listener = self._listener, None
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(last_word)
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR if last_word else socket.SHUT_RDWR)
        if listener is not None:
            listener.close()

    def _forget(self) -> None:
        """Close a forked child's copies, which would hold the connections open when this process is gone."""
        for connection in [*self._connections, *([self._listener] if self._listener is not None else [])]:
            connection.close()
        self._connections, self._listener = [], None

    def _watch_first(self, connection: socket.socket, ending: threading.Event) -> None:
        heard = b""
        with contextlib.suppress(OSError):
            while part := connection.recv(16):
                heard += part
        if heard != _DONE and not ending.is_set():
            give_up(0, ending)

    def _watch_all(self, token: bytes, ending: threading.Event) -> None:
        listener = self._listener
        assert listener is not None
        ranks: dict[socket.socket, int] = {}
        done: set[socket.socket] = set()
        with contextlib.suppress(OSError, ValueError), selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while not ending.is_set():
                for key, _ in selector.select(timeout=1.0):
                    if key.fileobj is listener:
                        if (joined := _admit(listener, token)) is not None:
                            ranks[joined[0]] = joined[1]
                            self._connections.append(joined[0])
                            selector.register(joined[0], selectors.EVENT_READ)
                        continue
                    connection: Any = key.fileobj
                    word = b""
                    with contextlib.suppress(OSError):
                        word = connection.recv(16)
                    if word == _DONE:
                        done.add(connection)
                        continue
                    selector.unregister(connection)
                    if connection not in done and not ending.is_set():
                        give_up(ranks[connection], ending)


def give_up(rank: int, ending: threading.Event) -> None:
    """End this process because another rank is gone, after a moment in which it may end by itself.

    Args:
        rank: The one that is gone.
        ending: Set when this process is ending by itself.
    """
    time.sleep(GRACE)
    if ending.wait(0):
        time.sleep(ENDING - GRACE)
    print(
        f"train.py: rank {rank} has failed or was killed (its own message, if it had time for one, says why), so this "
        "rank ends too",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _admit(listener: socket.socket, token: bytes) -> tuple[socket.socket, int] | None:
    """Accept a rank that knows the run's token; anybody else is turned away."""
    connection, _ = listener.accept()
    connection.settimeout(5)
    hello = b""
    with contextlib.suppress(OSError):
        while len(hello) < _TOKEN_BYTES + 4 and (part := connection.recv(_TOKEN_BYTES + 4 - len(hello))):
            hello += part
    if len(hello) < _TOKEN_BYTES + 4 or not secrets.compare_digest(hello[:_TOKEN_BYTES], token):
        connection.close()
        return None
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return connection, int.from_bytes(hello[_TOKEN_BYTES:], "big")
