"""What to do when a request to an endpoint fails: again, later, never, or not at all any more."""

import email.utils
import random
import re
import time
from dataclasses import dataclass
from typing import Any, Literal

import openai

from datamodules.records import UserError

_SECRET = re.compile(r"(Bearer\s+)\S+|\b(?:sk|key|pk)-[\w-]{6,}")
_TRANSIENT_STATUS = frozenset({408, 409, 425, 429})
_HOPELESS_STATUS = frozenset({401, 403, 404, 405})


class MalformedReply(Exception):
    """An endpoint answered 200 with something that is not a reply."""


class EndpointError(UserError):
    """An endpoint cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often and when failed requests are repeated.

    Attributes:
        attempts: How often a request is tried; each failure that may pass counts.
        first_delay: Seconds before the second try; doubled each time.
        max_delay: Longest pause in seconds, unless the endpoint asks for a longer one (Retry-After).
    """

    attempts: int = 10
    first_delay: float = 0.5
    max_delay: float = 60.0

    def delay(self, failures: int, retry_after: float | None, draw: float) -> float:
        """Return how long to wait before the next try.

        Args:
            failures: How often it has failed, from 1.
            retry_after: What the endpoint asked for, in seconds.
            draw: A random number between 0 and 1: pauses are spread over half their length.
        """
        pause = min(self.first_delay * 2.0 ** (failures - 1), self.max_delay) * (0.5 + 0.5 * draw)
        return pause if retry_after is None else retry_after + pause * draw


@dataclass(frozen=True)
class Failure:
    """How a request failed.

    Attributes:
        kind: In a few words; errors are counted by it.
        action: ``retry`` when it may pass, ``record`` when this request can never succeed, ``stop`` when none can.
        message: In one sentence, without credentials.
        retry_after: Seconds that the endpoint asked to wait.
    """

    kind: str
    action: Literal["retry", "record", "stop"]
    message: str
    retry_after: float | None = None


def failure_of(error: Exception) -> Failure | None:
    """Return what a request's exception means, or None when it is no failure of a request but an error of the program.

    Args:
        error: What the openai client raised, or a MalformedReply.
    """
    message = redacted(" ".join(str(error).split())[:300] or type(error).__name__)
    if isinstance(error, openai.APITimeoutError):
        return Failure("time-out", "retry", message)
    if isinstance(error, openai.APIStatusError):
        return _status_failure(error, message)
    if isinstance(error, (MalformedReply, openai.APIResponseValidationError)):
        return Failure("malformed reply", "retry", message)
    if isinstance(error, (openai.APIConnectionError, OSError)):
        cause = error.__cause__
        return Failure("connection", "retry", message + (f" ({type(cause).__name__})" if cause is not None else ""))
    return None


def _status_failure(error: openai.APIStatusError, message: str) -> Failure:
    status, code = error.status_code, str(error.code or "")
    said = f"{code} {message}".lower()
    if status == 429 and "insufficient_quota" in said:
        return Failure("quota", "stop", message)
    if status in _TRANSIENT_STATUS or status >= 500:
        return Failure(f"HTTP {status}", "retry", message, retry_after(error.response.headers))
    if "content_filter" in said or "content management policy" in said or "content_policy" in said:
        return Failure("content filter", "record", message)
    return Failure(f"HTTP {status}", "stop" if status in _HOPELESS_STATUS else "record", message)


def retry_after(headers: Any, now: float | None = None) -> float | None:
    """Return how many seconds an endpoint asks to wait, from ``Retry-After`` in seconds or as a date.

    Args:
        headers: The response's headers.
        now: Seconds since the epoch; the present by default.
    """
    value = headers.get("retry-after-ms")
    try:
        if value is not None:
            return max(0.0, float(value) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        try:
            return max(0.0, float(value))
        except ValueError:
            date = email.utils.parsedate_to_datetime(value)
            return max(0.0, date.timestamp() - (time.time() if now is None else now))
    except (TypeError, ValueError):
        return None


def redacted(text: str, *secrets: str) -> str:
    """Return a text without credentials.

    Args:
        text: For example an endpoint's complaint about a key.
        *secrets: Strings that must not be in it; what looks like a key is taken out in any case.
    """
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return _SECRET.sub(lambda found: (found[1] or "") + "***", text)


def draw() -> float:
    """Return a random number that does not follow the run's seed: ranks must not retry in step."""
    return _SYSTEM.random()


_SYSTEM = random.SystemRandom()
