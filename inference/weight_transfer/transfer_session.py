"""Rank 0's side of weights that are sent: which servers are there, and what becomes of one that is lost."""

import logging
import time

from inference.vllm.client import ServerUnreachable
from inference.vllm.pooled_server import PooledServer, ServersLost, backoff
from inference.weight_transfer.receivers import Receivers, TransferBroken
from inference.weight_transfer.transfer import Sender, WeightStream, WeightTransfer
from inference.weight_transfer.weight_keeper import PROGRESS_SECONDS, WeightKeeper
from inference.weight_transfer.weight_sync import LOADS, WeightSyncError

log = logging.getLogger("lightning.pytorch.rollout")  # below Lightning's logger, so that it is seen


class TransferSession:
    """Servers that have met the trainer, anew whenever one of them was started anew."""

    def __init__(self, way: WeightTransfer, keeper: WeightKeeper, weights: WeightStream) -> None:
        """Meet nobody yet.

        Args:
            way: How weights are sent.
            keeper: Knows the servers.
            weights: What is sent.
        """
        self.way = way
        self.keeper = keeper
        self.weights = weights
        self._members: list[PooledServer] = []
        self._receivers: Receivers | None = None
        self._sender: Sender | None = None
        self._sent: str | None = None
        self._failures = 0

    def assemble(self, seconds: float) -> None:
        """Meet the servers that are there, where they have not been met since their start.

        A server that cannot be reached is left behind as long as another is there; the next push meets it.

        Args:
            seconds: How long to wait until one is there.

        Raises:
            ServersLost: None came in time.
            UserError: One refused, or cannot be used.
        """
        begun = reported = time.monotonic()
        tries = 0
        while True:
            problem = self._try_to_assemble()
            if problem is None:
                return
            now = time.monotonic()
            if now - begun > seconds:
                raise ServersLost(
                    f"no rollout server came for weights within {now - begun:.0f} s: {problem}; start it again as it "
                    "was started, and resume with --ckpt_path last"
                )
            if tries == 0 or now - reported >= PROGRESS_SECONDS:
                reported = now
                log.warning(f"Waiting for a rollout server to send weights to: {problem}")
            tries += 1
            time.sleep(min(backoff(tries), max(0.05, begun + seconds - now)))

    def send(self, version: str) -> bool:
        """Send the present weights to the servers that were met.

        Args:
            version: Their name.

        Returns:
            Whether they have arrived; otherwise :meth:`assemble` comes first again.

        Raises:
            UserError: A server refused them, or fails again and again although it is well.
        """
        assert self._sender is not None and self._receivers is not None
        if self.keeper.version != version:  # not yet, by an attempt that failed
            self.keeper.expect(None, version)
        self._receivers.version = version
        for server in self.keeper.servers:
            server.suspect = True
        self.weights.begin()
        try:
            self._sender.send_weights()
        except TransferBroken as error:
            self.close()
            self._failures += 1
            if self._failures >= LOADS and all(server.client.healthy() for server in self._members):
                raise WeightSyncError(
                    f"{error} ({LOADS} times, although the servers themselves are well); the servers stay paused until "
                    "a push succeeds, which any run begins with"
                ) from None
            log.warning(f"Weights {version} did not arrive and are sent again: {error}")
            return False
        finally:
            self.weights.drain()
        self._sent, self._failures = version, 0
        for server in self._members:
            if server.info is None or server.info.paused:
                self.keeper.inspect(server)
            if server.failures:
                log.warning(f"{server.url} is back: weights {version} were sent to it")
            server.suspect = server.awaits = False
            server.failures, server.retry_at = 0, 0.0
        return True

    def close(self) -> None:
        """Leave the servers."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.shutdown()

    def _try_to_assemble(self) -> str | None:
        """Return None when there are servers that have been met, otherwise what is wrong with the last one."""
        present: list[PooledServer] = []
        stale = self._sender is None
        problem = None
        for server in self.keeper.servers:
            try:
                version = server.client.weight_version()
                self.keeper.meet(server, version)
                stale = stale or version != self._sent or server.client.is_paused()
            except ServerUnreachable as error:
                problem = str(error)
                self.keeper.failed(server, error)
                continue
            present.append(server)
        if not present:
            return problem
        if not stale and present == self._members:
            return None
        self.close()
        try:
            self._receivers = self.way.receivers([server.client for server in present])
            self._sender = self.way.meet(self._receivers, self.weights)
        except ServerUnreachable as error:
            return str(error)
        self._members = present
        return None
