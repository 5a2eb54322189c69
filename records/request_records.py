"""What the stages that ask an endpoint keep beside their results: what failed, and what it took."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self

from records.records import Record


@dataclass(frozen=True)
class RequestError(Record):
    """Something that could not be had.

    Attributes:
        question_id: The question.
        sample: Which of its samples, or None when it is about the question as a whole, for example its clip.
        kind: What happened in a few words; errors are counted by it.
        permanent: Asking again would not help; else a restarted run asks again.
        message: What happened in one sentence, without credentials.
        attempts: How often it was tried.
        created: Seconds since the epoch.
        question_fingerprint: What the question asked then (``Question.fingerprint``), or empty where that is unknown.
    """

    schema: ClassVar[str] = "error/1"

    question_id: str
    sample: int | None
    kind: str
    permanent: bool
    message: str
    attempts: int = 1
    created: float | None = None
    question_fingerprint: str = ""

    @classmethod
    def now(
        cls, question_id: str, kind: str, permanent: bool, message: str, sample: int | None = None, attempts: int = 1
    ) -> Self:
        """Return an error that has just happened."""
        return cls(question_id, sample, kind, permanent, message, attempts, round(time.time(), 3))


@dataclass(frozen=True)
class Usage(Record):
    """What one question took in one run, failed attempts included.

    Attributes:
        question_id: The question.
        run: The run, a number that is another one after each restart and on each rank.
        requests: Requests that were answered.
        retries: Attempts that failed and were repeated.
        prompt_tokens: Tokens of the requests.
        completion_tokens: Tokens generated.
        cost: Money at the configured prices.
        started: When the first request was sent, in seconds since the epoch.
        ended: When the last one was answered.
    """

    schema: ClassVar[str] = "usage/1"

    question_id: str
    run: str
    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    started: float = 0.0
    ended: float = 0.0


def spent(usage: Iterable[Usage]) -> tuple[int, float]:
    """Return the tokens and the money that questions took together."""
    each = list(usage)
    return sum(one.prompt_tokens + one.completion_tokens for one in each), sum(one.cost for one in each)


@dataclass(frozen=True)
class ItemResult:
    """What came of one item.

    Attributes:
        records: Results.
        errors: What could not be had.
        usage: What it took.
    """

    records: tuple[Record, ...]
    errors: tuple[RequestError, ...]
    usage: Usage
