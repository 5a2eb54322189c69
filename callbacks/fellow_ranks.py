"""No rank outlives another that failed: whoever waits for it in a collective would keep its GPU for half an hour."""

import contextlib
import os
import secrets
import selectors
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from runtime.ending_signals import NAMES, status_after
from runtime.uninterrupted import END_NOW

GRACE = 3.0
"""Seconds in which a rank may end by itself, with a message of its own, after another one has."""

SECONDS_TO_HEAR = 5.0
"""Seconds after which a main thread that was told to end is taken to be in a collective that never returns."""

SECONDS_TO_END = 60.0
"""Seconds after which a rank that is ending by itself is ended."""

_TOKEN_BYTES = 32
_WORD = struct.Struct("!IB")
"""A rank and the exit status with which it ends."""


class FellowRanks(Callback):
    """Ends this process when another rank of the run has failed or was killed, whoever launched them.

    Each rank holds a connection to the first one. The system closes it when a process ends, however that happens;
    a rank that ends in order says with which status before, and the first one tells all. So a failure is seen at once,
    also from within a collective of NCCL, in which no Python code of the main thread runs. Where it runs, the stage
    ends in order: callbacks write what they have.

    Args:
        status_of: Tells with which status this process ends because of an exception.
    """

    def __init__(self, status_of: Callable[[BaseException], int] | None = None) -> None:
        self._status_of = status_of or exit_status
        self._rank = 0
        self._connections: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._ending = threading.Event()
        self._lost: tuple[int, int] | None = None
        self._why: str | None = None
        self._first_loss = threading.Lock()
        self._may_interrupt = False
        os.register_at_fork(after_in_child=self._forget)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size == 1 or self._connections or self._listener is not None:
            return
        self._ending = threading.Event()
        self._rank = rank = trainer.global_rank
        if threading.current_thread() is threading.main_thread():
            signal.signal(END_NOW, self._raise)
            self._may_interrupt = True
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
            _keep_alive(connection)
            connection.sendall(token + rank.to_bytes(4, "big"))
            self._connections = [connection]
            watch = threading.Thread(target=self._watch_first, args=(connection, self._ending), daemon=True)
        watch.start()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end(0)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.world_size == 1 or self._ending.is_set():
            return
        status = self._status_of(exception)
        if self._lost is None and isinstance(exception, RuntimeError):
            time.sleep(0.5)  # a collective may have failed because of a rank whose end is only just being heard of
        if self._lost is not None and not isinstance(exception, SystemExit):
            exception.add_note(f"train.py: {self._said(*self._lost)}")
        self._end(status)
        # what Lightning does next, such as moving the weights off the GPU, waits for collectives that never return
        threading.Thread(target=self._leave_late, args=(status,), daemon=True).start()

    def lost(self, rank: int, status: int, why: str | None = None) -> None:
        """End this process because of another rank; to be called in a thread, returns when it ends by itself.

        Args:
            rank: The other one.
            status: Its exit status; where it was told to end, this process ends with the same, and with 1 otherwise.
            why: Said of it, where it has not ended and all ranks know that; by default that it has.
        """
        status = status if status in NAMES else 1
        with self._first_loss:
            if self._lost is not None or self._ending.is_set():
                return
            self._lost, self._why = (rank, status), why
        if self._rank == 0 and why is None:
            self._tell(rank, status)
        if why is None and self._ending.wait(GRACE):
            return
        if self._rank == (1 if rank == 0 else 0):  # one says it for all
            print(f"train.py: {self._said(rank, status)}", file=sys.stderr, flush=True)
        if self._may_interrupt:
            signal.pthread_kill(threading.main_thread().ident or 0, END_NOW)
            if self._ending.wait(SECONDS_TO_HEAR):
                return
        os._exit(status)

    def _said(self, rank: int, status: int) -> str:
        if self._why is not None:
            return self._why
        if status in NAMES:
            return f"rank {rank} was ended by {NAMES[status]}, so all ranks end; what was written is kept"
        return (
            f"rank {rank} has failed or was killed (its own message, if it had time for one, says why), so all ranks "
            "end; what was written is kept"
        )

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self._lost is not None and not self._ending.is_set():
            raise SystemExit(self._lost[1])

    def _leave_late(self, status: int) -> None:
        time.sleep(SECONDS_TO_END)
        print(
            f"train.py: rank {self._rank} has not ended within {SECONDS_TO_END:.0f} s and is ended",
            file=sys.stderr,
            flush=True,
        )
        os._exit(status)

    def _tell(self, rank: int, status: int) -> None:
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.sendall(_WORD.pack(rank, status))

    def _end(self, status: int) -> None:
        """Part from the others with a last word."""
        if self._ending.is_set():
            return
        self._ending.set()
        if self._lost is None:
            self._tell(self._rank, status)
        connections, self._connections = self._connections, []
        listener, self._listener = self._listener, None
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR if status else socket.SHUT_WR)
        if listener is not None:
            listener.close()

    def _forget(self) -> None:
        """Close a forked child's copies, which would hold the connections open when this process is gone."""
        for connection in [*self._connections, *([self._listener] if self._listener is not None else [])]:
            connection.close()
        self._connections, self._listener = [], None

    def _watch_first(self, connection: socket.socket, ending: threading.Event) -> None:
        rank, status = _hear(connection) or (0, 1)
        if status and not ending.is_set():
            self.lost(rank, status)

    def _watch_all(self, token: bytes, ending: threading.Event) -> None:
        listener = self._listener
        assert listener is not None
        ranks: dict[socket.socket, int] = {}
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
                    selector.unregister(connection)
                    rank, status = _hear(connection) or (ranks[connection], 1)
                    if status and not ending.is_set():
                        self.lost(rank, status)


def exit_status(error: BaseException) -> int:
    """Return the status with which a process ends because of an exception.

    Args:
        error: What was raised.
    """
    if isinstance(error, SIGTERMException):
        return error.code if isinstance(error.code, int) else status_after(signal.SIGTERM)
    if isinstance(error, KeyboardInterrupt):
        return status_after(signal.SIGINT)
    return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 0 else 1


def _hear(connection: socket.socket) -> tuple[int, int] | None:
    """Return a rank's last word, None when it has ended without."""
    heard = b""
    with contextlib.suppress(OSError):
        while len(heard) < _WORD.size and (part := connection.recv(_WORD.size - len(heard))):
            heard += part
    return _WORD.unpack(heard) if len(heard) == _WORD.size else None


def _keep_alive(connection: socket.socket) -> None:
    """Let the system ask whether the other machine is still there: one without power closes no connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
        if hasattr(socket, name):  # 30 s of silence, then six questions
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


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
    _keep_alive(connection)
    return connection, int.from_bytes(hello[_TOKEN_BYTES:], "big")
