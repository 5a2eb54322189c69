"""One OpenAI-compatible endpoint: requests, repeated where that helps, counted and limited."""

import asyncio
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import openai

from datamodules.records import UserError
from lightning_modules.budget import Budget
from lightning_modules.retries import EndpointError, Failure, MalformedReply, RetryPolicy, draw, failure_of, redacted

Scalar = int | float | None | str | bool
BodyField = Scalar | list[Scalar] | dict[str, Scalar | list[Scalar] | dict[str, Any]]
"""A field of a request. Not ``Any``: the command line would read the string "yes" as true."""

_HOPEFUL = 20
"""So many different requests may be refused for good before a first success; then the stage stops."""


@dataclass
class EndpointSettings:
    """Where requests go. The key comes from the environment only.

    Attributes:
        base_url: The API's address, for example ``http://127.0.0.1:8000/v1``.
        model: The model's name there.
        name: What the endpoint is called in records; by default the address' host.
        api_key_env: Environment variable with the key; without it none is sent.
        in_flight: Requests under way at once.
        timeout: Seconds that one request may take.
        retry: How failed requests are repeated.
        extra_body: Further fields of each request, for what the API does not standardise (``top_k``,
            ``structured_outputs``, ``logprob_token_ids``, ...). They win over what a stage sends; null leaves a field
            out.
    """

    base_url: str
    model: str
    name: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    in_flight: int = 64
    timeout: float = 120.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    extra_body: dict[str, BodyField] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse addresses that are none or that carry credentials."""
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"endpoint.base_url must look like http://127.0.0.1:8000/v1, found {self.base_url!r}")
        if parts.username or parts.password or parts.query:
            raise UserError(
                "endpoint.base_url must not carry credentials or a query: put the key into the environment variable "
                f"{self.api_key_env} (endpoint.api_key_env)"
            )
        if self.in_flight < 1:
            raise UserError(f"endpoint.in_flight must be 1 or more, found {self.in_flight}")

    @property
    def label(self) -> str:
        """What the endpoint is called in records."""
        return self.name or str(urlsplit(self.base_url).netloc)


@dataclass(frozen=True)
class Choice:
    """One of a reply's completions.

    Attributes:
        text: What was said.
        reasoning: What servers with a reasoning parser return separately.
        finish_reason: Why it ended: ``stop``, ``length``, ``content_filter``, ...
        first_token: The first token's candidates and their log-probabilities where they were asked for and given.
    """

    text: str
    reasoning: str = ""
    finish_reason: str = "stop"
    first_token: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Reply:
    """What an endpoint answered to one request.

    Attributes:
        choices: The completions, by their index.
        prompt_tokens: Tokens of the request, or None where the endpoint does not say.
        completion_tokens: Tokens of all completions together, or None.
    """

    choices: tuple[Choice, ...]
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass
class Tally:
    """What the requests of one piece of work took."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


class RequestFailed(Exception):
    """A request was given up; what is missing is recorded.

    Attributes:
        failure: Why.
        attempts: How often it was tried.
    """

    def __init__(self, failure: Failure, attempts: int) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.attempts = attempts


class ChatEndpoint:
    """Sends chat requests, at most ``in_flight`` at once; one that waits before its next try holds no place."""

    def __init__(self, settings: EndpointSettings, budget: Budget) -> None:
        """Prepare; nothing is sent.

        Args:
            settings: Where requests go.
            budget: Counts and limits what is spent.
        """
        self.settings = settings
        self.budget = budget
        self._key = os.environ.get(settings.api_key_env, "")
        self._client: openai.AsyncOpenAI | None = None
        self._places: asyncio.Semaphore | None = None
        self._succeeded = 0
        self._refused = 0
        self._last_success = time.monotonic()

    async def chat(
        self, messages: Sequence[dict[str, Any]], tally: Tally, extra: dict[str, Any] | None = None, **fields: Any
    ) -> Reply:
        """Send one request, again and again where that helps.

        Args:
            messages: The chat.
            tally: Gets what it took.
            extra: Fields that the API does not standardise.
            **fields: Sampling parameters and the like; those that are None are left out.

        Raises:
            RequestFailed: It was refused for good or failed too often.
            BudgetSpent: It does not fit the budget any more.
            EndpointError: No request to this endpoint can succeed.
        """
        if self._client is None or self._places is None:
            self._start()
        assert self._client is not None and self._places is not None
        ours = self.settings.extra_body
        body = {name: value for name, value in fields.items() if value is not None and name not in ours}
        beyond = {name: value for name, value in {**(extra or {}), **ours}.items() if value is not None}
        began = time.monotonic()
        attempts = 0
        while True:
            async with self._places:
                self.budget.admit()
                attempts += 1
                failure: Failure | None = None
                try:
                    raw = await self._client.chat.completions.with_raw_response.create(
                        model=self.settings.model,
                        messages=list(messages),  # type: ignore[arg-type]
                        extra_body=beyond or None,
                        **body,
                    )
                    reply = parse_reply(raw.http_response.content)
                except Exception as error:
                    self.budget.give_back()
                    failure = failure_of(error)
                    if failure is None:
                        raise
                except asyncio.CancelledError:
                    self.budget.give_back()
                    raise
                if failure is None:
                    return self._count(reply, tally)
            await self._failed(failure, attempts, began, tally)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _start(self) -> None:
        self._places = asyncio.Semaphore(self.settings.in_flight)
        self._client = openai.AsyncOpenAI(
            base_url=self.settings.base_url,
            api_key=self._key or "none",  # the client insists on one
            timeout=self.settings.timeout,
            max_retries=0,  # repeated here, where it is counted
        )

    def _count(self, reply: Reply, tally: Tally) -> Reply:
        self._succeeded += 1
        self._last_success = time.monotonic()
        if reply.prompt_tokens is None and self.budget.limited:
            raise EndpointError(
                f"{self.settings.label} does not say how many tokens its replies took, so that the budget cannot be "
                "kept: remove the budget's limits"
            )
        prompt, completion = reply.prompt_tokens or 0, reply.completion_tokens or 0
        tally.requests += 1
        tally.prompt_tokens += prompt
        tally.completion_tokens += completion
        tally.cost += self.budget.settle(prompt, completion)
        return reply

    async def _failed(self, failure: Failure, attempts: int, began: float, tally: Tally) -> None:
        """Wait before the next try, or raise where there is none."""
        label = self.settings.label
        said = redacted(failure.message, self._key)
        failure = Failure(failure.kind, failure.action, said, failure.retry_after)
        if failure.action == "stop":
            raise EndpointError(
                f"{label} refuses all requests ({failure.kind}: {said}): check endpoint.base_url, endpoint.model and "
                f"the key in {self.settings.api_key_env}, then run the same command again"
            )
        if failure.action == "record":
            self._refused += 1
            if self._refused >= _HOPEFUL and not self._succeeded:
                raise EndpointError(
                    f"{label} refused the first {self._refused} requests for good ({failure.kind}: {said}): it does "
                    "not accept what the configuration asks for"
                )
            raise RequestFailed(failure, attempts)
        if attempts >= self.settings.retry.attempts:
            if self._last_success < began:
                raise EndpointError(
                    f"{label} has answered nothing for {time.monotonic() - began:.0f} s ({failure.kind}: {said}): "
                    "start it and run the same command again; what was answered before is on disk"
                )
            raise RequestFailed(failure, attempts)
        tally.retries += 1
        await asyncio.sleep(self.settings.retry.delay(attempts, failure.retry_after, draw()))


def parse_reply(content: bytes) -> Reply:
    """Read an endpoint's answer.

    Args:
        content: The response's body.

    Raises:
        MalformedReply: It is not JSON, or not a chat completion.
    """
    try:
        body = json.loads(content)
    except ValueError:
        raise MalformedReply(f"the reply is not JSON ({content[:80]!r}...)") from None
    try:
        choices = sorted(body["choices"], key=lambda choice: choice.get("index", 0))
        usage = body.get("usage") or {}
        if not choices:
            raise MalformedReply("the reply has no choices")
        return Reply(
            tuple(_choice(choice) for choice in choices), usage.get("prompt_tokens"), usage.get("completion_tokens")
        )
    except (KeyError, TypeError, AttributeError, IndexError):
        raise MalformedReply(f"the reply is not a chat completion ({content[:80]!r}...)") from None


def _choice(choice: dict[str, Any]) -> Choice:
    message = choice["message"]
    tokens = (choice.get("logprobs") or {}).get("content") or ()
    candidates = (tokens[0].get("top_logprobs") or [tokens[0]]) if tokens else ()
    return Choice(
        text=message.get("content") or "",
        reasoning=message.get("reasoning_content") or message.get("reasoning") or "",
        finish_reason=choice.get("finish_reason") or "stop",
        first_token=tuple((str(c["token"]), float(c["logprob"])) for c in candidates),
    )
