"""Servers of a vision-language teacher: they score what the student has said, given frames that it has not seen."""

import itertools
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from typing_extensions import override

from inference.rollout_requests import Prompt
from inference.scoring_pool import SINCE_START, ScoringPool
from inference.vllm.client import ServerError, ServerRefused, ServerUnreachable
from inference.vllm.pooled_server import PooledServer
from inference.vllm.sampling import SamplingParams
from inference.vllm.server_info import ask
from inference.weight_transfer.weight_keeper import WeightKeeper
from inference.weight_transfer.weight_sync import PUSH_SECONDS
from runtime.ahead import Ahead
from runtime.errors import UserError

_SCORED = SamplingParams(1, 1, 0.0, 0, ())


class SeenPrompt(NamedTuple):
    """A question as the teacher is asked it.

    Attributes:
        name: What it is called in messages.
        token_ids: Its tokens in the teacher's vocabulary, with ONE placeholder for each picture.
        images: The pictures as data URLs.
    """

    name: str
    token_ids: list[int]
    images: tuple[str, ...] = ()


class TeacherKeeper(WeightKeeper):
    """Sees to it that a server goes on with the teacher that it was started with."""

    @override
    def inspect(self, server: PooledServer) -> None:
        """Ask a server how it was started, and refuse one that was given weights since, or has another model now.

        Raises:
            ServerRefused: It cannot be the teacher.
        """
        known, info = server.info, ask(server.client)
        version = server.client.weight_version()
        if version != SINCE_START or info.paused:
            raise ServerRefused(
                f"{server.url} cannot be the teacher: it was given weights {version!r} by a run or is being given "
                "some; the teacher needs servers of its own"
            )
        if known is not None and known.model != info.model:
            raise ServerRefused(
                f"{server.url} was started again with {info.model} in place of {known.model}, the teacher that this "
                "run began with"
            )
        server.info = info

    @override
    def bring_back(self, server: PooledServer, force: bool = False, seconds: float = PUSH_SECONDS) -> None:
        """Look at a server after a failure: it may have been started again; the gate is passed again then."""
        with server.lock:
            if not server.suspect:
                return
            try:
                self.inspect(server)
            except ServerUnreachable as error:
                self.failed(server, error)
                raise
            server.suspect, server.gate_due = False, True


class TeacherPool(ScoringPool):
    """The servers of the teacher."""

    setting = "model.distillation.teacher_urls"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Describe the servers, as :class:`.server_pool.ServerPool` does."""
        super().__init__(*args, **kwargs)
        self.keeper = TeacherKeeper(self.servers, self.retry_seconds, self.keeper.request_seconds)

    def score(self, prompt: SeenPrompt, completions: Sequence[list[int]]) -> list[list[float]]:
        """Let completions of one question be scored, all at once.

        Args:
            prompt: The question.
            completions: Each in the teacher's tokens; an empty one is not sent.

        Returns:
            Log-probabilities of their tokens at temperature 1, in nats.

        Raises:
            ServersLost: No server could score one for ``retry_seconds``.
            UserError: One refused, or was shown another prompt than it was sent.
        """
        begun = time.perf_counter()
        work = [Ahead(partial(self._score_one, prompt, ids)) if ids else None for ids in completions]
        scores = [one.result() if one is not None else [] for one in work]
        self.seconds.append(time.perf_counter() - begun)
        return scores

    def _score_one(self, prompt: SeenPrompt, completion: list[int]) -> list[float]:
        name = f"{prompt.name}, scored by the teacher"
        asked = Prompt(name, prompt.token_ids, "", _SCORED, completion, prompt.images)
        try:
            answer = self.requests().answer(asked)
        except ServerUnreachable:
            raise
        except ServerError as error:
            raise type(error)(str(error) if prompt.name in str(error) else f"question {name}: {error}") from None
        check_seen(prompt, answer.prompt_token_ids)
        [given] = answer.samples
        if any(version != SINCE_START for version in given.weight_versions):
            raise ServerRefused(
                f"a server in {self.setting} was given weights {given.weight_versions[-1]!r} while it scored "
                f"{prompt.name}: the teacher needs servers of its own, which no run pushes weights to"
            )
        return given.logprobs


def check_seen(prompt: SeenPrompt, seen: Sequence[int]) -> None:
    """Refuse a prompt that came to the teacher's model as another one.

    Args:
        prompt: What was sent.
        seen: Its token ids as the server tells them, where each placeholder is repeated as often as its picture needs.

    Raises:
        UserError: It is another prompt, or pictures are missing.
    """
    if _once_each(seen) != _once_each(prompt.token_ids) or (prompt.images and len(seen) < len(prompt.token_ids)):
        raise UserError(
            f"parity of the teacher's prompts failed: for {prompt.name} {len(prompt.token_ids)} tokens with "
            f"{len(prompt.images)} frames were sent, and the server's model was shown {len(seen)} others: the "
            "teacher's tokenizer (model.distillation.tokenizer) must be that of the server's checkpoint"
        )


def _once_each(ids: Sequence[int]) -> list[int]:
    return [token for token, _ in itertools.groupby(ids)]
