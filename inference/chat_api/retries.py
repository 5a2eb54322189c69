"""What to do when a request to an endpoint fails: again, later, never, or not at all any more."""

import email.utils
import math
import random
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import openai

from records.valid_text import valid_text
from runtime.errors import UserError, refuse_below

_LONGEST = 300
"""Characters of an endpoint's own words that are kept."""

_SECRET = re.compile(r"(Bearer\s+)\S+|\b(?:sk|key|pk)-[\w-]{6,}|(?<=://)[^/\s@]+(?=@)", re.IGNORECASE)
_TRANSIENT_STATUS = frozenset({408, 409, 425, 429})
_HOPELESS_STATUS = frozenset({403, 404, 405})
_NO_CREDIT = re.compile(
    r"insufficient[_ ](?:user[_ ])?(?:quota|balance|funds|credits?)|billing_(?:hard_limit|not_active)"
    r"|credit balance is too low|payment required"
)
_TOO_LARGE = re.compile(
    r"context[_ ]length[_ ]exceeded|maximum context length|(?:request|payload|entity|body)\b.{0,20} too large"
)
_FILTERED = re.compile(
    r"content[_ ]?filter|content management policy|content[_ ]policy|moderation|flagged|safety system"
    r"|inappropriate content|data_?inspection_?failed"
)
_ABOUT_ALL = re.compile(r"\baccount|organi[sz]ation|\bapi[_ ]?key|\bproject\b")
_SMALLER = (
    "make requests smaller (frames.count, frames.max_side and frames.quality; wav_format pcm16; max_seconds; for the "
    "teacher fewer samples) or raise the limit of the server or of the proxy in front of it"
)


class MalformedReply(Exception):
    """An endpoint answered 200 with something that is not a reply.

    Attributes:
        said: The response's body.
        page: Whether it is a web page.
    """

    def __init__(self, message: str, said: bytes = b"", page: bool = False) -> None:
        super().__init__(message)
        self.said = said
        self.page = page


class ErrorReply(Exception):
    """An endpoint answered 200 with an error.

    Attributes:
        error: The error: an object or a text.
    """

    def __init__(self, error: Any) -> None:
        super().__init__("the reply is an error")
        self.error = error


class EndpointError(UserError):
    """An endpoint cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often and when failed requests are repeated.

    Attributes:
        attempts: How often a request is tried; each failure that may pass counts.
        first_delay: Seconds before the second try; doubled each time.
        max_delay: Longest pause in seconds, unless the endpoint asks for a longer one (Retry-After).
        max_wait: Longest pause in seconds that the endpoint may ask for; the stage ends with a sentence beyond it.
    """

    attempts: int = 10
    first_delay: float = 0.5
    max_delay: float = 60.0
    max_wait: float = 3600.0

    def __post_init__(self) -> None:
        """Check that each is possible."""
        refuse_below(1, "endpoint.retry.", attempts=self.attempts)
        for name in ("first_delay", "max_delay", "max_wait"):
            if not getattr(self, name) >= 0:
                raise UserError(f"endpoint.retry.{name} is {getattr(self, name)}: 0 seconds or more are needed")

    def delay(self, failures: int, retry_after: float | None, jitter: float) -> float:
        """Return how long to wait before the next try.

        Args:
            failures: How often it has failed, from 1.
            retry_after: What the endpoint asked for, in seconds.
            jitter: A random number between 0 and 1: pauses are spread over half their length.
        """
        pause = min(self.first_delay * 2.0 ** min(failures - 1, 60), self.max_delay) * (0.5 + 0.5 * jitter)
        return pause if retry_after is None else retry_after + pause * jitter


@dataclass(frozen=True)
class Failure:
    """How a request failed.

    Attributes:
        kind: In a few words; errors are counted by it.
        action: ``retry`` when it may pass; ``record`` when it is this request's own fault; ``doubt`` when it is this
            request's if others are answered, and else the endpoint's; ``stop`` when no request can succeed.
        message: In one sentence, without credentials.
        retry_after: Seconds that the endpoint asked to wait, without a bound.
        lasting: False when a later run should ask again what was refused.
        early: Ask again some times and then stop if the endpoint has not answered anything yet.
    """

    kind: str
    action: Literal["retry", "record", "doubt", "stop"]
    message: str
    retry_after: float | None = None
    lasting: bool = True
    early: bool = False


def failure_of(error: Exception, *secrets: str) -> Failure | None:
    """Return what a request's exception means, or None when it is no failure of a request but an error of the program.

    Args:
        error: What the openai client raised, a TimeoutError, or what ``chat_reply.parse_reply`` raises.
        *secrets: Strings that must not be in the message.
    """
    if isinstance(error, openai.APIStatusError):
        words = f"{error.code or ''} {error.type or ''} {_detail(error.body)}"
        said = f"Error code: {error.status_code} - {_detail(error.body)}".removesuffix(" - ")
        if error.response.has_redirect_location:
            place = str(error.response.url.join(error.response.headers["Location"])).partition("?")[0]
            return Failure("redirection", "stop", _short(place, *secrets))
        wait = retry_after(error.response.headers)
        return _status_failure(error.status_code, words.lower(), _short(said, *secrets), wait)
    if isinstance(error, ErrorReply):
        code = error.error.get("code") if isinstance(error.error, dict) else None
        said = _detail(error.error) or "no reason given"
        if str(code).isdigit() and 400 <= int(str(code)) < 600:
            return _status_failure(int(str(code)), f"{code} {said}".lower(), _short(said, *secrets), None)
        return Failure("error reply", "retry", _short(f"{error}: {said}", *secrets))
    if isinstance(error, MalformedReply):
        said = f"{error} ({_short(error.said.decode('utf-8', 'replace'), *secrets)[:80]!r}...)"
        return Failure("malformed reply", "retry", said, early=error.page)
    if isinstance(error, openai.APIResponseValidationError):
        return Failure("malformed reply", "retry", _short(str(error), *secrets))
    if isinstance(error, (openai.APITimeoutError, TimeoutError)):
        return Failure("time-out", "retry", "no complete answer within endpoint.timeout")
    if isinstance(error, (openai.APIConnectionError, OSError)):
        causes = list(_causes(error))
        reasons = [f"{type(cause).__name__}: {cause}" for cause in causes[1:] if str(cause)]
        message = _short(str(error) + (f" ({reasons[0]})" if reasons else ""), *secrets)
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
            return Failure("certificate", "stop", message)
        refused_by_proxy = any(type(cause).__name__ == "ProxyError" for cause in causes)
        return Failure("connection", "retry", message, early=refused_by_proxy)
    return None


def _status_failure(status: int, words: str, message: str, wait: float | None) -> Failure:
    kind = f"HTTP {status}"
    if status == 402 or _NO_CREDIT.search(words):
        return Failure("quota", "stop", message)
    if status == 401:
        return Failure(kind, "stop", message)
    if status == 413 or _TOO_LARGE.search(words):
        return Failure("too large", "doubt", f"{message}; {_SMALLER}", lasting=False)
    if status in _TRANSIENT_STATUS or status >= 500:
        return Failure(kind, "retry", message, wait)
    if status == 451 or (_FILTERED.search(words) and not _ABOUT_ALL.search(words)):
        return Failure("content filter", "record", message)
    return Failure(kind, "doubt", message, early=status in _HOPELESS_STATUS)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _detail(body: Any) -> str:
    """Return what an error's body says, in whatever way this kind of server says it."""
    while isinstance(body, (dict, list)) and body:
        if isinstance(body, list):
            body = body[0]
            continue
        body = next((body[name] for name in ("error", "message", "detail", "msg", "reason") if body.get(name)), "")
    return body if isinstance(body, str) else str(body or "")


def _short(text: str, *secrets: str) -> str:
    """Return a text in one line without credentials; these are looked for before it is cut."""
    return " ".join(redacted(text, *secrets).split())[:_LONGEST]


def retry_after(headers: Any, now: float | None = None) -> float | None:
    """Return how many seconds an endpoint asks to wait, from ``Retry-After`` in seconds or as a date.

    It may be infinite: how long is waited is the caller's business. What is no time is None; one that has passed is 0.

    Args:
        headers: The response's headers.
        now: Seconds since the epoch; the present by default.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                date = email.utils.parsedate_to_datetime(value).timestamp()
            except (TypeError, ValueError, OverflowError):
                continue
            seconds = date - (time.time() if now is None else now)
        if not math.isnan(seconds):
            return max(0.0, seconds)
    return None


def redacted(text: str, *secrets: str) -> str:
    """Return a text that can be written, without credentials.

    Args:
        text: For example an endpoint's complaint about a key.
        *secrets: Strings that must not be in it, in whatever case; what looks like a key is taken out in any case.
    """
    text = valid_text(text)
    for secret in secrets:
        if secret:
            text = re.sub(re.escape(secret), "***", text, flags=re.IGNORECASE if len(secret) >= 8 else 0)
    return _SECRET.sub(lambda found: (found[1] or "") + "***", text)


def jitter() -> float:
    """Return a random number that does not follow the run's seed: ranks must not retry in step."""
    return _SYSTEM.random()


_SYSTEM = random.SystemRandom()
