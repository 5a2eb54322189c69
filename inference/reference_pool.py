"""Servers that hold the reference of GRPO's KL term: they score completions, and nobody gives them weights."""

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from inference.rollout_requests import Prompt
from inference.scoring_pool import SINCE_START, ScoringPool
from inference.vllm.client import RequestOutput, ServerRefused, ServerUnreachable
from inference.vllm.pooled_server import PooledServer
from inference.weight_transfer.weight_keeper import WeightKeeper
from inference.weight_transfer.weight_sync import PUSH_SECONDS

SAME = 1e-3
"""Largest difference of a log-probability between two servers of the same weights in float32."""

SAME_ON_AVERAGE = 0.1
"""Largest mean difference where one of them computes in 16 bits."""


@dataclass(frozen=True)
class ReferenceProbe:
    """A completion and what the reference thinks of it: another server that holds the reference thinks the same.

    Attributes:
        token_ids: The prompt with ONE audio placeholder.
        audio: The clip as a data URL.
        completion: Its tokens.
        logprobs: Their log-probabilities.
        dtype: Type that the server computed in, as far as it is known.
    """

    token_ids: list[int]
    audio: str
    completion: list[int]
    logprobs: list[float]
    dtype: str | None

    def check(self, server: PooledServer) -> None:
        """Refuse a server that thinks otherwise.

        Raises:
            ServerRefused: Its weights are not the reference's.
            ServerUnreachable: It does not answer.
        """
        found = server.client.score(self.token_ids, self.audio, self.completion)
        gaps = [abs(one - other) for one, other in zip(found, self.logprobs, strict=True)]
        largest, mean = max(gaps), sum(gaps) / len(gaps)
        exact = self.dtype == "float32" and server.info is not None and server.info.dtype == "float32"
        if largest > SAME if exact else mean > SAME_ON_AVERAGE:
            raise ServerRefused(
                f"{server.url} does not hold the reference that this run began with: log-probabilities of a completion "
                f"that was scored then differ by up to {largest:.2g} nats ({mean:.2g} on average); start it with "
                "--model and the checkpoint that model.weights names"
            )


class ReferenceKeeper(WeightKeeper):
    """Sees to it that servers have the weights that they were started with, and that these are the reference's.

    Attributes:
        probe: What they must agree with; None before the first completion was scored.
    """

    probe: ReferenceProbe | None = None

    @override
    def inspect(self, server: PooledServer) -> None:
        """Ask a server how it was started, and refuse one that was given weights since.

        Raises:
            ServerRefused: It cannot be the reference.
        """
        super().inspect(server)
        version = server.client.weight_version()
        if version != SINCE_START or server.client.is_paused():
            raise ServerRefused(
                f"{server.url} cannot be the reference: it was given weights {version!r} by a run or is being given "
                "some; the reference needs servers of its own, which hold the SFT policy and are in no server_urls"
            )

    @override
    def bring_back(self, server: PooledServer, force: bool = False, seconds: float = PUSH_SECONDS) -> None:
        """Look at a server after a failure: it may have been started again, with another checkpoint."""
        with server.lock:
            if not server.suspect:
                return
            try:
                self.inspect(server)
                self.check_probe(server)
            except ServerUnreachable as error:
                self.failed(server, error)
                raise
            server.suspect = False

    def check_probe(self, server: PooledServer) -> None:
        """Refuse a server whose weights are not those that completions have been scored with."""
        if self.probe is not None:
            self.probe.check(server)


class ReferencePool(ScoringPool):
    """The servers that hold the reference."""

    setting = "reference_urls"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Describe the servers, as :class:`ServerPool` does."""
        super().__init__(*args, **kwargs)
        self.keeper: ReferenceKeeper = ReferenceKeeper(self.servers, self.retry_seconds, self.keeper.request_seconds)

    def score(self, prompt: Prompt, drawn: RequestOutput) -> RequestOutput:
        """Let completions be scored that a rollout server has drawn.

        Args:
            prompt: What was asked.
            drawn: What was answered.

        Returns:
            The same with the reference's log-probabilities.

        Raises:
            ServersLost: No server could score them for ``retry_seconds``.
            UserError: One refused, or sees another prompt, or holds other weights.
        """
        begun = time.perf_counter()
        requests = self.requests()
        sampling = dataclasses.replace(prompt.sampling, n=1)
        scored = []
        for sample in drawn.samples:
            asked = prompt._replace(
                name=f"{prompt.name}, scored by the reference", sampling=sampling, completion=sample.token_ids
            )
            answer = requests.answer(asked)
            [given] = answer.samples
            if answer.prompt_token_ids != drawn.prompt_token_ids:
                raise ServerRefused(
                    f"parity of prompts failed: for {prompt.name} the rollout server has {len(drawn.prompt_token_ids)} "
                    f"prompt tokens and the reference {len(answer.prompt_token_ids)}, or others: start the servers "
                    "in reference_urls with the checkpoint that model.weights names"
                )
            if any(version != SINCE_START for version in given.weight_versions):
                raise ServerRefused(
                    f"a server in reference_urls was given weights {given.weight_versions[-1]!r} while it scored "
                    f"{prompt.name}: the reference needs servers of its own, which no run pushes weights to"
                )
            scored.append(dataclasses.replace(sample, reference_logprobs=given.logprobs))
        if self.keeper.probe is None and scored:
            first, dtype = scored[0], self.servers[0].info.dtype if self.servers[0].info else None
            logprobs = first.reference_logprobs or []
            self.keeper.probe = ReferenceProbe(prompt.token_ids, prompt.audio, first.token_ids, logprobs, dtype)
        self.seconds.append(time.perf_counter() - begun)
        return dataclasses.replace(drawn, samples=scored)
