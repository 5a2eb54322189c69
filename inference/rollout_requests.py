"""Requests for rollouts, all under way at once, each repeated until a server has answered it."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from inference.vllm.client import RequestOutput, ServerFailed, ServerRefused, ServerUnreachable
from inference.vllm.pooled_server import PooledServer, ServersLost, StaleWeights, WeightsAwaited
from inference.vllm.sampling import SamplingParams
from inference.weight_transfer.weight_keeper import WeightKeeper
from records.records import Question

log = logging.getLogger("lightning.pytorch.rollout")  # below Lightning's logger, so that it is seen

MOST_THREADS = 64
"""Requests that one server gets at once."""

MOST_SURVIVED_FAILURES = 3
"""Failures of one request that a server may survive before the request is to blame."""


class Prompt(NamedTuple):
    """What one request asks.

    Attributes:
        name: What it is called in messages: the question's id and its clip.
        token_ids: Its tokens, with ONE audio placeholder.
        audio: The clip as a data URL; empty where the prompt has none.
        sampling: How completions are drawn.
        completion: A completion that is scored, in place of others that are drawn.
        images: Pictures as data URLs, each with ONE placeholder.
        question: The question that is asked.
    """

    name: str
    token_ids: list[int]
    audio: str
    sampling: SamplingParams
    completion: list[int] | None = None
    images: tuple[str, ...] = ()
    question: Question | None = None


Then = Callable[[Prompt, RequestOutput], RequestOutput]
"""What else is done with an answer as soon as it has come, in a thread of its own; returns the answer with more."""


class RolloutRequests:
    """The requests of one batch, on whichever server has room."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        keeper: WeightKeeper,
        retry_seconds: float,
        watch_seconds: float,
        then: Then | None = None,
        over: threading.Event | None = None,
    ) -> None:
        """Prepare; nothing is sent.

        Args:
            prompts: What is asked.
            keeper: Knows the servers and the weights that they are to have.
            retry_seconds: How long one request is tried again when servers are lost.
            watch_seconds: How often to look after servers that take long, and to say so.
            then: What else is done with each answer.
            over: Set where nobody waits for answers any more.
        """
        self.prompts = prompts
        self.then = then
        self.keeper = keeper
        self.servers = keeper.servers
        self.retry_seconds = retry_seconds
        self.watch_seconds = watch_seconds
        self._answers: list[RequestOutput | None] = [None] * len(prompts)
        self._pending: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._over = over or threading.Event()

    def answers(self) -> list[RequestOutput]:
        """Send all and return the answers in the order of the prompts, all drawn with the expected weights.

        Raises:
            ServersLost: A request could not be served for ``retry_seconds``.
            WeightsAwaited: No server can be used before the ranks have pushed together.
            UserError: A server refused a request.
        """
        for index in range(len(self.prompts)):
            self._pending.put(index)
        try:
            # daemon threads: an interrupted run must not wait for requests that hang
            for _ in range(min(len(self.prompts), MOST_THREADS * len(self.servers))):
                threading.Thread(target=self._work, daemon=True).start()
            self._watch()
        finally:
            self._over.set()
            with self.keeper.changed:
                self.keeper.changed.notify_all()
        return [answer for answer in self._answers if answer is not None]

    def _work(self) -> None:
        """Answer one request after another, in a thread."""
        while not self._over.is_set():
            try:
                index = self._pending.get_nowait()
            except queue.Empty:
                return
            try:
                prompt = self.prompts[index]
                answer = self.answer(prompt)
                self._answers[index] = self.then(prompt, answer) if self.then is not None else answer
                self._done.put(None)
            except Exception as error:
                self._done.put(error)
                return

    def _watch(self) -> None:
        """Wait for all requests; meanwhile say that it takes long and wake servers that somebody left paused."""
        begun = time.monotonic()
        finished = 0
        while finished < len(self.prompts):
            try:
                error = self._done.get(timeout=self.watch_seconds)
            except queue.Empty:
                log.info(
                    f"Rollouts: {finished} of {len(self.prompts)} prompts answered after "
                    f"{time.monotonic() - begun:.0f} s "
                    f"({', '.join(f'{s.url}: {s.in_flight} completions under way' for s in self.servers)})"
                )
                for server in self.servers:
                    self.keeper.wake(server)
                continue
            if error is not None:
                raise error
            finished += 1

    def answer(self, prompt: Prompt) -> RequestOutput:
        """Have one request answered, by another server where one is lost.

        Raises:
            ServersLost: It could not be served for ``retry_seconds``.
            UserError: A server refused it.
        """
        lost_since: float | None = None
        survived = 0
        while True:
            server = self._take(prompt.sampling.n)
            try:
                return self._ask(server, prompt)
            except ServerUnreachable as error:
                if self._over.is_set():
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
                if self.keeper.push_is_due():
                    raise WeightsAwaited(f"no rollout server has weights {self.keeper.version!r}") from None
                now = time.monotonic()
                lost_since = lost_since or now
                if now - lost_since > self.retry_seconds:
                    state = f"{server.url} is well but did not answer in time" if well else "no server came back"
                    raise ServersLost(
                        f"rollouts failed for {self.retry_seconds:.0f} s and {state} (question {prompt.name}): {error}"
                    ) from None
            finally:
                with self.keeper.changed:
                    server.in_flight -= prompt.sampling.n
                    self.keeper.changed.notify_all()

    def _ask(self, server: PooledServer, prompt: Prompt) -> RequestOutput:
        """Ask one server once.

        Raises:
            ServerUnreachable: It did not answer, or with other weights than it was given.
        """
        if server.suspect:
            self.keeper.bring_back(server)
        if prompt.completion is None:
            answer = server.client.generate(prompt.token_ids, prompt.audio, prompt.sampling)
        else:
            answer = server.client.force(prompt.token_ids, prompt.audio, prompt.completion, prompt.images)
        check_version(server, answer, self.keeper.version)
        server.failures = 0
        return answer

    def _take(self, completions: int) -> PooledServer:
        """Choose the least loaded server that has room and is not left alone after a failure."""
        with self.keeper.changed:
            while not self._over.is_set():
                now = time.monotonic()
                if all(s.awaits for s in self.servers):
                    raise WeightsAwaited(f"no rollout server has weights {self.keeper.version!r}")
                ready = [s for s in self.servers if s.retry_at <= now and not s.awaits]
                free = [s for s in ready if s.has_room(completions)]
                if free:
                    chosen = min(free, key=lambda s: s.in_flight)
                    chosen.in_flight += completions
                    return chosen
                self.keeper.changed.wait(0.1 if not ready else 0.5)
        raise ServerUnreachable("the rollouts were given up")


def check_version(server: PooledServer, answer: RequestOutput, version: str | None) -> None:
    """Refuse completions of other weights than the server was given.

    Args:
        server: The server.
        answer: What it answered.
        version: The weights that it is to have; None where it was given none.

    Raises:
        StaleWeights: It sampled with others.
    """
    for sample in answer.samples:
        if version is not None and sample.weight_versions != (version,):
            found = ", ".join(sample.weight_versions) or "none"
            raise StaleWeights(f"{server.url} sampled with weights {found!r} in place of {version!r}")
