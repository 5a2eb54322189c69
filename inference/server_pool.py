"""Several rollout servers as one: waits for them, spreads requests, and brings back those that were lost."""

import logging
import queue
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from inference.chat_api.endpoint_settings import without_credentials
from inference.vllm.client import Generation, ServerFailed, ServerRefused, ServerUnreachable, VLLMClient
from inference.vllm.pooled_server import PooledServer, ServersLost, StaleWeights
from inference.vllm.sampling import Sampling
from inference.weight_transfer.weight_keeper import WeightKeeper
from runtime.errors import UserError

log = logging.getLogger("lightning.pytorch.rollout")  # below Lightning's logger, so that it is seen

PROGRESS_SECONDS = 10.0
MOST_THREADS = 64

MOST_SURVIVED_FAILURES = 3
"""Failures of one request that a server may survive before the request is to blame."""


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


class ServerPool:
    """The rollout servers of a run.

    Attributes:
        servers: The servers.
        keeper: Makes them have the run's weights.
    """

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
            if "@" in url:
                raise UserError(
                    f"server_urls must not carry credentials, found {without_credentials(url)!r}: logs and "
                    "configurations name the addresses; reach the server through a tunnel or a private network"
                )
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise UserError(f"server_urls: {url!r} is no address, expected something like http://127.0.0.1:8000")
        self.wait_seconds = wait_seconds
        self.retry_seconds = retry_seconds
        self.watch_seconds = watch_seconds
        self.servers = [PooledServer(VLLMClient(url, request_seconds, MOST_THREADS)) for url in dict.fromkeys(urls)]
        self.keeper = WeightKeeper(self.servers, retry_seconds, request_seconds)

    def close(self) -> None:
        """Close all connections, after pushes under way: no server is left with half of the weights."""
        self.keeper.end()
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
        self.keeper.completions = completions
        deadline = time.monotonic() + self.wait_seconds
        for server in self.servers:
            begun = reported = time.monotonic()
            port = urlsplit(server.url).port or 80
            advice = f"start one with `python -m inference.vllm_server --model {checkpoint} --port {port}`"
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
            self.keeper.inspect(server)

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
            with self.keeper.changed:
                self.keeper.changed.notify_all()
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
                    self.keeper.bring_back(server)
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
                self.keeper.failed(server, error)
                now = time.monotonic()
                lost_since = lost_since or now
                if now - lost_since > self.retry_seconds:
                    state = f"{server.url} is well but did not answer in time" if well else "no server came back"
                    raise ServersLost(
                        f"rollouts failed for {self.retry_seconds:.0f} s and {state} (question {prompt.name}): {error}"
                    ) from None
            finally:
                with self.keeper.changed:
                    server.in_flight -= sampling.n
                    self.keeper.changed.notify_all()

    def _take(self, completions: int, over: threading.Event) -> PooledServer:
        """Choose the least loaded server that has room and is not left alone after a failure."""
        with self.keeper.changed:
            while not over.is_set():
                now = time.monotonic()
                ready = [s for s in self.servers if s.retry_at <= now]
                free = [s for s in ready if s.has_room(completions)]
                if free:
                    chosen = min(free, key=lambda s: s.in_flight)
                    chosen.in_flight += completions
                    return chosen
                self.keeper.changed.wait(0.1 if not ready else 0.5)
        raise ServerUnreachable("the rollouts were given up")

    def _check_version(self, server: PooledServer, answer: Generation) -> None:
        for sample in answer.samples:
            if self.keeper.version is not None and sample.weight_versions != (self.keeper.version,):
                found = ", ".join(sample.weight_versions) or "none"
                raise StaleWeights(f"{server.url} sampled with weights {found!r} in place of {self.keeper.version!r}")

    def _wake(self, server: PooledServer) -> None:
        """Bring a server back that answers but holds requests back."""
        if server.in_flight == 0:
            return
        try:
            if server.client.is_paused():
                log.warning(f"{server.url} is paused although no weights are being pushed: bringing it back")
                server.suspect = True
                self.keeper.bring_back(server)
        except ServerUnreachable:
            pass  # the requests under way find out themselves
