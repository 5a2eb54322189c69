"""Several rollout servers as one: waits for them, spreads requests, and brings back those that were lost."""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

from callbacks.sampling import Sampling
from callbacks.server_info import ServerInfo, ask
from callbacks.vllm_client import (
    Generation,
    ServerError,
    ServerFailed,
    ServerRefused,
    ServerUnreachable,
    VLLMClient,
)
from callbacks.weight_directory import CheckpointFolder, WeightDirectory
from callbacks.weight_sync import PUSH_SECONDS, WeightSyncError, can_read, push
from datamodules.records import UserError

log = logging.getLogger("lightning.pytorch.rollout")  # below Lightning's logger, so that it is seen

PROGRESS_SECONDS = 10.0
LONGEST_BACKOFF = 15.0
CLOSING_SECONDS = 20.0
MOST_THREADS = 64

MOST_SURVIVED_FAILURES = 3
"""Failures of one request that a server may survive before the request is to blame."""


class StaleWeights(ServerUnreachable):
    """A server sampled with other weights than it was given: it was restarted."""


class ServersLost(ServerError):
    """No server came back in time."""


class Prompt(NamedTuple):
    """What one request asks.

    Attributes:
        name: What it is called in messages: the question's id and its clip.
        token_ids: Its tokens, with ONE audio placeholder.
        audio: The clip as a data URL.
        sampling: How completions are drawn.
    """

    name: str
    token_ids: list[int]
    audio: str
    sampling: Sampling


@dataclass
class PooledServer:
    """One server and what is known of it.

    Attributes:
        client: Speaks with it.
        info: How it was started; None until it has answered.
        in_flight: Completions asked for and not yet received.
        failures: Failures since it last did its work.
        retry_at: When to ask it again after a failure.
        suspect: Its weights must be looked at before it is used again.
        gate_due: The parity gate has not passed since it was started.
        lock: Held while it is brought back.
    """

    client: VLLMClient
    info: ServerInfo | None = None
    in_flight: int = 0
    failures: int = 0
    retry_at: float = 0.0
    suspect: bool = False
    gate_due: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        """Its address."""
        return self.client.url

    def has_room(self, completions: int) -> bool:
        """True when it can compute so many more completions at once, or does nothing."""
        most = self.info.max_num_seqs if self.info else None
        return self.in_flight == 0 or most is None or self.in_flight + completions <= most


class ServerPool:
    """The rollout servers of a run."""

    def __init__(
        self,
        urls: Sequence[str],
        wait_seconds: float = 600.0,
        retry_seconds: float = 600.0,
        request_seconds: float = 600.0,
        watch_seconds: float = PROGRESS_SECONDS,
    ) -> None:
        """Describe the servers.

        Args:
            urls: Their addresses.
            wait_seconds: How long to wait for them at the start.
            retry_seconds: How long to try again when they are lost in mid-run.
            request_seconds: Give up a single request after this time.
            watch_seconds: How often to look after servers that take long, and to say so.

        Raises:
            UserError: There are none, or an address is no address.
        """
        if not urls:
            raise UserError("server_urls is empty: name at least one rollout server, such as http://127.0.0.1:8000")
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise UserError(f"server_urls: {url!r} is no address, expected something like http://127.0.0.1:8000")
        self.wait_seconds = wait_seconds
        self.retry_seconds = retry_seconds
        self.request_seconds = request_seconds
        self.watch_seconds = watch_seconds
        self.servers = [PooledServer(VLLMClient(url, request_seconds, MOST_THREADS)) for url in dict.fromkeys(urls)]
        self._directory: WeightDirectory | CheckpointFolder | None = None
        self._version: str | None = None
        self._ours = False
        self.check: Callable[[PooledServer], object] | None = None
        self._pushing: list[threading.Thread] = []
        self._completions = 1
        self._changed = threading.Condition()

    def close(self) -> None:
        """Close all connections, after pushes under way: no server is left with half of the weights."""
        deadline = time.monotonic() + CLOSING_SECONDS
        for thread in self._pushing:
            thread.join(max(0.0, deadline - time.monotonic()))
        for server in self.servers:
            server.client.close()

    def wait(self, completions: int, checkpoint: str = "DIR") -> None:
        """Wait until every server is ready, and check how it was started.

        Args:
            completions: Most completions that one prompt will have.
            checkpoint: Named in the advice on how to start a server.

        Raises:
            ServersLost: One did not become ready in time.
            UserError: One was started in a way that rollouts cannot use.
        """
        self._completions = completions
        deadline = time.monotonic() + self.wait_seconds
        for server in self.servers:
            begun = reported = time.monotonic()
            port = urlsplit(server.url).port or 80
            advice = f"start one with `python -m callbacks.vllm_server --model {checkpoint} --port {port}`"
            announced = False
            while not server.client.healthy():
                now = time.monotonic()
                if now > deadline:
                    raise ServersLost(
                        f"no rollout server answered at {server.url} within {self.wait_seconds:.0f} s: {advice}"
                    )
                if not announced or now - reported >= PROGRESS_SECONDS:
                    announced, reported = True, now
                    log.info(f"Waiting for the rollout server {server.url} since {now - begun:.0f} s ({advice})")
                time.sleep(min(1.0, max(0.05, deadline - now)))
            self._inspect(server)

    def expect(self, directory: WeightDirectory | CheckpointFolder, version: str) -> None:
        """Say which weights all servers are to have from now on.

        Args:
            directory: Where they are.
            version: Their name.
        """
        self._ours = self._version is not None
        self._directory, self._version = directory, version

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
                log.warning(f"Weights {self._version} could not be pushed: {error}")
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
                log.info(f"Waiting for a rollout server to push weights {self._version} to: {errors[-1]}")
            time.sleep(backoff(max(server.failures for server in self.servers)))

    def generate(self, prompts: Sequence[Prompt]) -> list[Generation]:
        """Draw completions of many prompts at once, on whichever server has room.

        Args:
            prompts: The prompts.

        Returns:
            The answers in the order of the prompts, all drawn with the expected weights.

        Raises:
            ServersLost: A request could not be served for ``retry_seconds``.
            UserError: A server refused a request.
        """
        results: list[Generation | None] = [None] * len(prompts)
        pending: queue.SimpleQueue[int] = queue.SimpleQueue()
        done: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        over = threading.Event()
        for index in range(len(prompts)):
            pending.put(index)

        def work() -> None:
            while not over.is_set():
                try:
                    index = pending.get_nowait()
                except queue.Empty:
                    return
                try:
                    results[index] = self._generate_one(prompts[index], over)
                    done.put(None)
                except Exception as error:
                    done.put(error)
                    return

        try:
            # daemon threads: an interrupted run must not wait for requests that hang
            for _ in range(min(len(prompts), MOST_THREADS * len(self.servers))):
                threading.Thread(target=work, daemon=True).start()
            self._watch(done, len(prompts))
        finally:
            over.set()
            with self._changed:
                self._changed.notify_all()
        return [result for result in results if result is not None]

    def _watch(self, done: "queue.SimpleQueue[Exception | None]", expected: int) -> None:
        """Wait for all requests; meanwhile say that it takes long and wake servers that somebody left paused."""
        begun = time.monotonic()
        finished = 0
        while finished < expected:
            try:
                error = done.get(timeout=self.watch_seconds)
            except queue.Empty:
                log.info(
                    f"Rollouts: {finished} of {expected} prompts answered after {time.monotonic() - begun:.0f} s "
                    f"({', '.join(f'{s.url}: {s.in_flight} completions under way' for s in self.servers)})"
                )
                for server in self.servers:
                    self._wake(server)
                continue
            if error is not None:
                raise error
            finished += 1

    def _generate_one(self, prompt: Prompt, over: threading.Event) -> Generation:
        sampling = prompt.sampling
        lost_since: float | None = None
        survived = 0
        while True:
            server = self._take(sampling.n, over)
            try:
                if server.suspect:
                    self._bring_back(server)
                answer = server.client.generate(prompt.token_ids, prompt.audio, sampling)
                self._check_version(server, answer)
                server.failures = 0
                return answer
            except ServerUnreachable as error:
                if over.is_set():
                    raise
                well = server.client.healthy()
                if isinstance(error, ServerFailed) and well:
                    survived += 1
                    if survived > MOST_SURVIVED_FAILURES:
                        raise ServerRefused(
                            f"question {prompt.name}: {error} ({survived} times, although the server itself is well, "
                            "so that it is this question or its clip): look into the server's log, and replace the "
                            "clip or leave the question out of the data"
                        ) from None
                self._failed(server, error)
                now = time.monotonic()
                lost_since = lost_since or now
                if now - lost_since > self.retry_seconds:
                    state = f"{server.url} is well but did not answer in time" if well else "no server came back"
                    raise ServersLost(
                        f"rollouts failed for {self.retry_seconds:.0f} s and {state} (question {prompt.name}): {error}"
                    ) from None
            finally:
                with self._changed:
                    server.in_flight -= sampling.n
                    self._changed.notify_all()

    def _take(self, completions: int, over: threading.Event) -> PooledServer:
        """Choose the least loaded server that has room and is not left alone after a failure."""
        with self._changed:
            while not over.is_set():
                now = time.monotonic()
                ready = [s for s in self.servers if s.retry_at <= now]
                free = [s for s in ready if s.has_room(completions)]
                if free:
                    chosen = min(free, key=lambda s: s.in_flight)
                    chosen.in_flight += completions
                    return chosen
                self._changed.wait(0.1 if not ready else 0.5)
        raise ServerUnreachable("the rollouts were given up")

    def _failed(self, server: PooledServer, error: Exception) -> None:
        with self._changed:
            if server.retry_at <= time.monotonic():  # not already known from another request
                server.failures += 1
                pause = backoff(server.failures)
                server.retry_at = time.monotonic() + pause
                if server.failures == 1 or server.failures % 5 == 0:
                    log.warning(f"{error}; trying again in {pause:.1f} s, nothing is lost")
            server.suspect = True

    def _check_version(self, server: PooledServer, answer: Generation) -> None:
        for sample in answer.samples:
            if self._version is not None and sample.weight_versions != (self._version,):
                found = ", ".join(sample.weight_versions) or "none"
                raise StaleWeights(f"{server.url} sampled with weights {found!r} in place of {self._version!r}")

    def _bring_back(self, server: PooledServer, force: bool = False, seconds: float = PUSH_SECONDS) -> None:
        """Make sure that a server runs with the expected weights; push them where it does not."""
        with server.lock:
            if not server.suspect:
                return
            if self._directory is None or self._version is None:
                server.suspect = False
                return
            try:
                with self._directory.lock(server.url, seconds):
                    version = server.client.weight_version()
                    if force or version != self._version or server.client.is_paused():
                        if version == "default":
                            self._inspect(server)
                            server.gate_due = True
                            if self.check is not None:
                                self.check(server)
                        elif self._ours and version.partition(":")[0] != self._version.partition(":")[0]:
                            raise ServerRefused(
                                f"{server.url} was given weights {version!r} by another run: "
                                "every run needs rollout servers of its own"
                            )
                        self._push_to(server, seconds)
                        if server.info is None or server.info.paused:
                            self._inspect(server)
                        if server.failures:
                            log.warning(f"{server.url} is back: weights {self._version} pushed again")
            except ServerUnreachable as error:
                self._failed(server, error)
                raise
            server.suspect = False

    def _push_to(self, server: PooledServer, seconds: float) -> None:
        assert self._directory is not None and self._version is not None
        try:
            push(server.client, self._directory.path(self._version), self._version, seconds)
        except WeightSyncError as error:
            if self._directory.probe is None:
                raise WeightSyncError(
                    f"{error}. The server must see {self._directory.root} under that path; if it does not, "
                    "--model lightning_modules.audio_qa.AudioQAModule --model.init_args.weights "
                    f"{self._directory.root} loads the weights here and sends them"
                ) from None
            if answer := can_read(server.client, self._directory.probe, seconds):
                raise WeightSyncError(
                    f"{server.url} cannot read {self._directory.root}, through which weights travel ({answer}): set "
                    "sync_dir to a folder that trainer and servers reach under the same path"
                ) from None
            raise

    def _wake(self, server: PooledServer) -> None:
        """Bring a server back that answers but holds requests back."""
        if server.in_flight == 0:
            return
        try:
            if server.client.is_paused():
                log.warning(f"{server.url} is paused although no weights are being pushed: bringing it back")
                server.suspect = True
                self._bring_back(server)
        except ServerUnreachable:
            pass  # the requests under way find out themselves

    def _inspect(self, server: PooledServer) -> None:
        info = server.info = ask(server.client, self._completions)
        if refusal := info.refusal():
            raise ServerRefused(f"the rollout server {server.url} cannot be used: {refusal}")

    def _try_to_bring_back(self, server: PooledServer, force: bool, errors: list[Exception], seconds: float) -> None:
        try:
            self._bring_back(server, force, seconds)
        except Exception as error:
            errors.append(error)


def backoff(failures: int) -> float:
    """Return how long to wait after so many failures: doubling up to 15 s, with jitter."""
    return float(min(LONGEST_BACKOFF, 0.5 * 2 ** max(failures - 1, 0)) * random.uniform(0.5, 1.0))
