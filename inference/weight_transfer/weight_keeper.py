"""Makes rollout servers have the weights that they are expected to have, now and when they come back."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from inference.vllm.client import ServerRefused, ServerUnreachable
from inference.vllm.pooled_server import PooledServer, ServersLost, WeightsAwaited, backoff
from inference.vllm.server_info import ask
from inference.weight_transfer.weight_directory import CheckpointFolder, WeightDirectory
from inference.weight_transfer.weight_sync import PUSH_SECONDS, WeightSyncError, can_read, push

log = logging.getLogger("lightning.pytorch.rollout")  # below Lightning's logger, so that it is seen

PROGRESS_SECONDS = 10.0
CLOSING_SECONDS = 20.0


class WeightKeeper:
    """Knows which weights the servers are to have.

    Attributes:
        servers: The servers.
        version: Name of the weights that they are to have.
        changed: Held while what is known of a server changes; notified when one has more room.
        check: Called with a server that was started anew; raises where it has another model.
        completions: Most completions that one prompt will have.
    """

    def __init__(self, servers: Sequence[PooledServer], retry_seconds: float, request_seconds: float) -> None:
        """Expect nothing yet.

        Args:
            servers: The servers.
            retry_seconds: How long to try again when they are lost.
            request_seconds: Give up a single request after this time.
        """
        self.servers = servers
        self.retry_seconds = retry_seconds
        self.request_seconds = request_seconds
        self.version: str | None = None
        self.changed = threading.Condition()
        self.check: Callable[[PooledServer], object] | None = None
        self.completions = 1
        self._directory: WeightDirectory | CheckpointFolder | None = None
        self._ours = False
        self._pushing: list[threading.Thread] = []

    def end(self) -> None:
        """Let pushes under way come to their end: no server is left with half of the weights."""
        deadline = time.monotonic() + CLOSING_SECONDS
        for thread in self._pushing:
            thread.join(max(0.0, deadline - time.monotonic()))

    def expect(self, directory: WeightDirectory | CheckpointFolder | None, version: str) -> None:
        """Say which weights all servers are to have from now on.

        Args:
            directory: Where they are; None where they are sent by all ranks together, so that none can bring a server
                back alone.
            version: Their name.
        """
        self._ours = self.version is not None
        self._directory, self.version = directory, version

    def cannot_read(self, directory: WeightDirectory) -> str | None:
        """Say which server cannot read a directory through which weights are to travel, or None.

        Args:
            directory: The directory, with its probe.
        """
        for server in self.servers:
            try:
                with directory.lock(server.url):
                    answer = can_read(server.client, directory.probe)
            except ServerUnreachable as error:
                log.warning(f"{error}: whether it can read {directory.root} is found out when it is back")
                continue
            if answer is not None:
                return (
                    f"{server.url} cannot read {directory.root.parent} (it runs on another machine, in a container or "
                    f"as another user; it says: {answer})"
                )
        return None

    def push(self, force: bool = False, seconds: float | None = None) -> None:
        """Give every server the expected weights.

        A server that cannot be reached is left behind as long as another has them; it gets them when it is back.

        Args:
            force: Also where a server says that it has them.
            seconds: How long it may take, failures included; ``retry_seconds`` by default.

        Raises:
            ServersLost: None could be reached for so long.
            UserError: One of them refused.
        """
        for server in self.servers:
            server.suspect = True
        limit = self.retry_seconds if seconds is None else min(seconds, self.retry_seconds + self.request_seconds)
        begun = reported = time.monotonic()
        deadline, lost = begun + limit, begun + min(limit, self.retry_seconds)
        while True:
            errors: list[Exception] = []
            self._pushing = [
                threading.Thread(
                    target=self._try_to_bring_back,
                    args=(server, force, errors, max(1.0, deadline - time.monotonic())),
                    daemon=True,
                )
                for server in self.servers
                if server.suspect
            ]
            for thread in self._pushing:
                thread.start()
            for thread in self._pushing:
                thread.join()
            for error in errors:
                if not isinstance(error, ServerUnreachable):
                    raise error
            for error in errors:
                log.warning(f"Weights {self.version} could not be pushed: {error}")
            if any(not server.suspect for server in self.servers):
                return
            now = time.monotonic()
            if now > lost:
                raise ServersLost(
                    f"no rollout server could be given weights for {now - begun:.0f} s: {errors[-1]}; start it again "
                    "as it was started, and resume with --ckpt_path last"
                )
            if now - reported >= PROGRESS_SECONDS:
                reported = now
                log.info(f"Waiting for a rollout server to push weights {self.version} to: {errors[-1]}")
            time.sleep(backoff(max(server.failures for server in self.servers)))

    def failed(self, server: PooledServer, error: Exception) -> None:
        """Leave a server alone for a while, and look at its weights before it is used again."""
        with self.changed:
            if server.retry_at <= time.monotonic():  # not already known from another request
                server.failures += 1
                pause = backoff(server.failures)
                server.retry_at = time.monotonic() + pause
                if server.failures == 1 or server.failures % 5 == 0:
                    log.warning(f"{error}; trying again in {pause:.1f} s, nothing is lost")
            server.suspect = True

    def bring_back(self, server: PooledServer, force: bool = False, seconds: float = PUSH_SECONDS) -> None:
        """Make sure that a server runs with the expected weights; push them where it does not."""
        with server.lock:
            if not server.suspect:
                return
            if self.version is None:
                server.suspect = False
                return
            try:
                if self._directory is None:
                    self._look_at(server)
                    return
                with self._directory.lock(server.url, seconds):
                    version = server.client.weight_version()
                    if force or version != self.version or server.client.is_paused():
                        self.meet(server, version)
                        self._push_to(server, seconds)
                        if server.info is None or server.info.paused:
                            self.inspect(server)
                        if server.failures:
                            log.warning(f"{server.url} is back: weights {self.version} pushed again")
            except ServerUnreachable as error:
                self.failed(server, error)
                raise
            server.suspect = False

    def meet(self, server: PooledServer, version: str) -> None:
        """Look at a server before it is given weights.

        Args:
            server: The server.
            version: Name of the weights that it has.

        Raises:
            UserError: It cannot be used, or another run uses it.
        """
        if version == "default":
            self.inspect(server)
            server.gate_due = True
            if self.check is not None:
                self.check(server)
        elif self._ours and self.version is not None and version.partition(":")[0] != self.version.partition(":")[0]:
            raise ServerRefused(
                f"{server.url} was given weights {version!r} by another run: every run needs rollout servers of its own"
            )

    def push_is_due(self) -> bool:
        """True when no server can be used and one would be if the ranks pushed together."""
        return any(s.awaits for s in self.servers) and all(s.awaits or s.failures for s in self.servers)

    def _look_at(self, server: PooledServer) -> None:
        """Take a server back that has the expected weights, or leave it to the next push."""
        version = server.client.weight_version()
        if version != self.version:
            server.awaits = True
            raise WeightsAwaited(f"{server.url} has weights {version!r} and waits for {self.version!r}")
        if server.client.is_paused():
            server.client.resume()  # by somebody else: a push of ours names the weights before it lets the server go on
        server.suspect = server.awaits = False

    def wake(self, server: PooledServer) -> None:
        """Bring a server back that answers but holds requests back."""
        if server.in_flight == 0:
            return
        try:
            if server.client.is_paused():
                log.warning(f"{server.url} is paused although no weights are being pushed: bringing it back")
                server.suspect = True
                self.bring_back(server)
        except ServerUnreachable:
            pass  # the requests under way find out themselves

    def inspect(self, server: PooledServer) -> None:
        """Ask a server how it was started.

        Raises:
            ServerRefused: In a way that rollouts cannot use.
        """
        info = server.info = ask(server.client, self.completions)
        if refusal := info.refusal():
            raise ServerRefused(f"the rollout server {server.url} cannot be used: {refusal}")

    def _push_to(self, server: PooledServer, seconds: float) -> None:
        assert self._directory is not None and self.version is not None
        try:
            push(server.client, self._directory.path(self.version), self.version, seconds)
        except WeightSyncError as error:
            if self._directory.probe is None:
                raise WeightSyncError(
                    f"{error}. The server must see {self._directory.root} under that path; if it does not, "
                    "--model lightning_modules.AudioQAModule --model.init_args.weights "
                    f"{self._directory.root} loads the weights here and sends them"
                ) from None
            if answer := can_read(server.client, self._directory.probe, seconds):
                raise WeightSyncError(
                    f"{server.url} cannot read {self._directory.root}, through which weights travel ({answer}): set "
                    "sync_dir to a folder that trainer and servers reach under the same path"
                ) from None
            raise

    def _try_to_bring_back(self, server: PooledServer, force: bool, errors: list[Exception], seconds: float) -> None:
        try:
            self.bring_back(server, force, seconds)
        except Exception as error:
            errors.append(error)
