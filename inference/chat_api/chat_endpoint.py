"""One OpenAI-compatible endpoint: requests, repeated where that helps, counted and limited."""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import openai

from inference.chat_api.budget import Budget
from inference.chat_api.chat_reply import Choice as Choice
from inference.chat_api.chat_reply import Reply as Reply
from inference.chat_api.chat_reply import parse_reply
from inference.chat_api.endpoint_client import open_client, proxy_for, request_headers
from inference.chat_api.endpoint_settings import BodyField as BodyField
from inference.chat_api.endpoint_settings import EndpointSettings as EndpointSettings
from inference.chat_api.retries import EndpointError, Failure, failure_of, jitter

_log = logging.getLogger("lightning.pytorch")

_HOPEFUL = 20
"""So many requests may be refused one after another; then the stage stops if the endpoint answers no other either."""

_EARLY = 3
"""So often a refusal that may concern all requests is tried before anything was answered."""

_DRIPPING = 4
"""So many times ``timeout`` a reply may take that comes little by little."""

_LONG = 10.0
"""Pauses of more seconds are said."""

_ONLY_STREAMS = re.compile(
    r"\b(?:only|must|require[sd]?|enable|set)\b.*\bstream|\bstream\w*\b.*\b(?:only|must|requ)", re.IGNORECASE
)


@dataclass
class RequestStats:
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

    def __init__(self, failure: Failure, attempts: int = 1) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.attempts = attempts


class ChatEndpoint:
    """Sends chat requests, at most ``in_flight`` at once; one that waits before its next try holds no place.

    Attributes:
        answers: Requests that were answered.
    """

    def __init__(self, settings: EndpointSettings, budget: Budget) -> None:
        """Prepare; nothing is sent.

        Args:
            settings: Where requests go.
            budget: Counts and limits what is spent.

        Raises:
            UserError: The key cannot be one.
        """
        self.settings = settings
        self.budget = budget
        self.answers = 0
        self._key = settings.key()
        proxy = proxy_for(settings.address)
        self._who = f"{settings.label} through {proxy}" if proxy else settings.label
        self._streams = settings.stream
        self._client: openai.AsyncOpenAI | None = None
        self._refused = 0
        self._answered: dict[str, Any] = {}
        self._last_answer = time.monotonic()
        self._quiet_until = 0.0
        self._over: EndpointError | None = None

    async def chat(
        self,
        messages: Sequence[dict[str, Any]],
        tally: RequestStats,
        extra: dict[str, Any] | None = None,
        **fields: Any,
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
        if self._client is None:
            self._start()
        ours = self.settings.extra_body
        body = {name: value for name, value in fields.items() if value is not None and name not in ours}
        beyond = {name: value for name, value in {**(extra or {}), **ours}.items() if value is not None}
        request = {"model": self.settings.model, "messages": list(messages), "extra_body": beyond, **body}
        began = time.monotonic()
        attempts = 0
        while True:
            while (pause := self._quiet_until - time.monotonic()) > 0:
                await self._sleep(pause + self.settings.retry.first_delay * jitter())
            async with self._places:
                if self._quiet_until > time.monotonic():  # since it waits for a place
                    continue
                streamed = self._streams
                result = await self._try(request)
            attempts += 1
            if isinstance(result, Reply):
                self._answered = request
                return self._count(result, tally)
            pause = await self._pause(result, attempts, began, tally, streamed)
            tally.retries += 1
            await self._sleep(pause)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _start(self) -> None:
        self._places = asyncio.Semaphore(self.settings.in_flight)
        self._ended = asyncio.Event()
        self._client = open_client(self.settings, self._key)
        self._headers = request_headers(self.settings, self._key)

    async def _try(self, request: dict[str, Any]) -> Reply | Failure:
        """Send a request once; the budget counts it as under way until it is answered."""
        assert self._client is not None
        if self._over is not None:
            raise self._over
        self.budget.admit()
        beyond = request["extra_body"]
        if self._streams:
            beyond = {"stream": True, "stream_options": {"include_usage": True}, **beyond}
        try:
            async with asyncio.timeout(_DRIPPING * self.settings.timeout):
                raw = await self._client.chat.completions.with_raw_response.create(
                    **{**request, "extra_body": beyond or None, "extra_headers": self._headers}
                )
            return parse_reply(raw.http_response.content, self._key)
        except Exception as error:
            self.budget.give_back()
            failure = failure_of(error, self._key)
            if failure is None:
                raise
            return failure
        except asyncio.CancelledError:
            self.budget.give_back()
            raise

    def _count(self, reply: Reply, tally: RequestStats) -> Reply:
        self.answers += 1
        self._refused = 0
        self._last_answer = time.monotonic()
        if reply.prompt_tokens is None and self.budget.limited:
            self.budget.give_back()
            raise self._end(
                f"{self._who} does not say how many tokens its replies took, so that the budget cannot be kept: remove "
                "the budget's limits"
            )
        prompt, completion = reply.prompt_tokens or 0, reply.completion_tokens or 0
        tally.requests += 1
        tally.prompt_tokens += prompt
        tally.completion_tokens += completion
        tally.cost += self.budget.settle(prompt, completion)
        return reply

    async def _pause(self, failure: Failure, attempts: int, began: float, tally: RequestStats, streamed: bool) -> float:
        """Return how long to wait before the next try, or raise where there is none.

        Args:
            failure: What came instead of a reply.
            attempts: How often the request has been sent.
            began: When it was sent first.
            tally: What it took so far.
            streamed: Whether it was asked for in pieces.
        """
        policy = self.settings.retry
        why = f"{failure.kind}: {failure.message}"
        if failure.action == "stop":
            raise self._end(self._hopeless(failure))
        if not streamed and failure.action == "doubt" and _ONLY_STREAMS.search(failure.message):
            if not self._streams:  # of the many that are under way the first one says it
                self._streams = True
                _log.info(f"{self._who} answers in pieces only, so that it is asked for these ({why})")
            return 0.0
        if failure.early and not self.answers:
            if attempts >= min(_EARLY, policy.attempts):
                raise self._end(self._hopeless(failure))
            return policy.delay(attempts, None, jitter())
        if failure.action != "retry":
            self._refused += 1
            if self._refused % _HOPEFUL == 0 and not await self._still_answers(tally):
                raise self._end(
                    f"{self._who} refused the last {self._refused} requests ({why}), and "
                    + ("now also one like those that it answered before" if self.answers else "has answered none")
                    + ": it does not accept what the configuration asks for; what was refused is asked again by the "
                    "next run"
                )
            raise RequestFailed(failure, attempts)
        if failure.retry_after is not None:
            self._heed(failure.retry_after, why)
        if attempts >= policy.attempts:
            if self._last_answer < began:
                if failure.kind not in ("connection", "time-out"):
                    raise self._end(
                        f"{self._who} answered each of {attempts} requests with an error ({why}): see its log, or "
                        "raise endpoint.retry.attempts where it is only busy, and run the same command again; what "
                        "was answered before is on disk"
                    )
                raise self._end(
                    f"{self._who} has answered nothing for {time.monotonic() - began:.0f} s ({why}): start it, or "
                    "raise endpoint.retry.attempts where it is only busy, and run the same command again; what was "
                    "answered before is on disk"
                )
            raise RequestFailed(failure, attempts)
        return policy.delay(attempts, failure.retry_after, jitter())

    def _heed(self, seconds: float, why: str) -> None:
        """Let no request be sent before the time that the endpoint asks for, and say so where that is long."""
        longest = self.settings.retry.max_wait
        clock = "the end of time"
        if seconds < 1e9:
            clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() + seconds))
        if seconds > longest:
            raise self._end(
                f"{self._who} asks to wait until {clock} ({why}), which is longer than endpoint.retry.max_wait "
                f"({longest:.0f} s): run the same command again then; what was answered before is on disk"
            )
        until = time.monotonic() + seconds
        if seconds > _LONG and until > self._quiet_until + 1:
            _log.warning(f"{self._who} asks to wait: no request is sent until {clock} ({why})")
        self._quiet_until = max(self._quiet_until, until)

    async def _still_answers(self, tally: RequestStats) -> bool:
        """Send again what was answered before: is it this endpoint or these requests that are at fault?"""
        if not self._answered:
            return False
        async with self._places:
            result = await self._try(self._answered)
        if isinstance(result, Failure):
            return result.action == "retry"  # nothing is known: so many requests later it is tried again
        self._count(result, tally)
        return True

    def _hopeless(self, failure: Failure) -> str:
        why = f"{failure.kind}: {failure.message}"
        again = "then run the same command again, which asks for what is missing"
        if failure.kind == "quota":
            return f"{self._who} has no credit left for this key ({why}): pay or wait for the next period, {again}"
        if failure.kind == "redirection":
            return (
                f"{self._who} sends requests on to {failure.message}, where they are not sent since they carry the "
                f"key: if that address is right, name its API with endpoint.base_url, {again}"
            )
        if failure.kind == "certificate":
            return (
                f"the certificate of {self._who} is not trusted ({why}): name the file of your organisation's "
                f"certificates in SSL_CERT_FILE, {again}"
            )
        return (
            f"{self._who} refuses all requests ({why}): check endpoint.base_url, endpoint.model and the key in "
            f"{self.settings.api_key_env}, {again}"
        )

    def _end(self, sentence: str) -> EndpointError:
        """Send nothing any more: whoever waits for a try gets the error too."""
        if self._over is None:
            self._over = EndpointError(sentence)
            self._ended.set()
        return self._over

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)
        if self._over is not None:
            raise self._over
