"""What the stages that ask an endpoint have in common: the teacher and the fact verifier."""

import asyncio
import dataclasses
import time
import uuid
from abc import abstractmethod
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from inference.chat_api.budget import Budget, BudgetSettings, BudgetSpent
from inference.chat_api.chat_endpoint import ChatEndpoint, Choice, EndpointSettings, RequestFailed, RequestStats
from inference.chat_api.endpoint_client import open_client
from inference.chat_api.in_flight import BoundedPool, LastResult
from inference.chat_api.retries import EndpointError, Failure
from lightning_modules.doors import RecordStage
from records.records import Record
from records.request_records import ItemResult, RequestError, Usage
from runtime.errors import UserError, refuse_below

T = TypeVar("T")

_PATIENCE = 5.0
"""Seconds that requests under way get, when no others can be sent any more: they may be paid for."""


@dataclass
class Work:
    """What has come of one item so far; kept also when the rest is given up.

    Attributes:
        records: Results.
        errors: What could not be had.
        tally: What it took.
        unpaid: True when the budget did not admit something.
    """

    records: list[Record] = field(default_factory=list)
    errors: list[RequestError] = field(default_factory=list)
    tally: RequestStats = field(default_factory=RequestStats)
    unpaid: bool = False


def refuse_sampling(max_tokens: int, temperature: float = 0.0, top_p: float = 1.0) -> None:
    """Refuse what no endpoint can sample with.

    Args:
        max_tokens: Longest completion.
        temperature: Sampling temperature.
        top_p: Nucleus of the sampling.

    Raises:
        UserError: One is out of its range.
    """
    refuse_below(1, "model.", max_tokens=max_tokens)
    if not 0 <= temperature < float("inf"):
        raise UserError(f"model.temperature is {temperature}: 0 or more is needed")
    if not 0 < top_p <= 1:
        raise UserError(f"model.top_p is {top_p}: more than 0 and at most 1 is needed")


class ChatStage(RecordStage):
    """A module whose ``predict_step`` hands its items to an endpoint and does not wait for the answers.

    Many requests are under way at once. ``predict_step`` waits only when there are too many, which holds the
    DataLoader's workers back. A writer takes what has ended (:meth:`outcomes`) after each batch and at the end
    (:meth:`drain`), and tells at the beginning what is on disk (:attr:`completed`, :attr:`spent`).
    """

    def __init__(self, endpoint: EndpointSettings, budget: BudgetSettings, requests_per_item: int) -> None:
        """Prepare; nothing is sent before the first batch.

        Args:
            endpoint: Where requests go.
            budget: Prices and limits.
            requests_per_item: How many requests an item makes at once; decides how many items are under way.

        Raises:
            UserError: The environment's key or proxy cannot be used.
        """
        super().__init__()
        open_client(endpoint, endpoint.key())  # refuses what cannot work before clips are decoded
        self.endpoint_settings = endpoint
        self.budget_settings = budget
        self.provenance: dict[str, Any] = {}
        self._items_under_way = max(2, -(-2 * endpoint.in_flight // max(1, requests_per_item)))
        self._run_id = uuid.uuid4().hex[:12]
        self._in_flight: BoundedPool[ItemResult] | None = None
        self._endpoint: ChatEndpoint | None = None
        self._doubts: list[tuple[int, RequestError]] = []
        self._ended = False

    @abstractmethod
    def question_id(self, item: Any) -> str:
        """Return which question an item is about."""

    @abstractmethod
    async def ask(self, item: Any, work: Work) -> None:
        """Ask about an item; results and what could not be had go into ``work`` as they come."""

    @property
    def endpoint(self) -> ChatEndpoint:
        """The endpoint, from the first batch on."""
        if self._endpoint is None:
            world_size = self._trainer.world_size if self._trainer is not None else 1
            budget = Budget(self.budget_settings, 1 / world_size, *self.spent)
            self._endpoint = ChatEndpoint(self.endpoint_settings, budget)
        return self._endpoint

    def predict_step(self, batch: Sequence[Any], batch_idx: int) -> int:
        """Begin the work on a batch's items.

        Args:
            batch: The items.
            batch_idx: The batch's number.

        Returns:
            How many items were begun.

        Raises:
            StopIteration: The budget is spent, which ends the loop as the end of the data does.
            EndpointError: No request can succeed.
        """
        if self._in_flight is None:
            self._in_flight = BoundedPool(self._items_under_way)
            self._ended = False
        for item in batch:
            if self.endpoint.budget.exhausted:
                rank_zero_info(
                    "the budget is spent: no more requests are sent; raise it and run the same command again"
                )
                raise StopIteration
            self._in_flight.submit(self._work(item))
        return len(batch)

    @override
    def outcomes(self) -> list[ItemResult]:
        if self._in_flight is None:
            return []
        done = self._in_flight.finished()
        if self._ended:  # nobody can say any more whether other requests would have been answered: asked again
            errors = self._decided() + [dataclasses.replace(error, permanent=False) for _, error in self._doubts]
            self._doubts = []
            now = time.time()
            done += [ItemResult((), (e,), Usage(e.question_id, self._run_id, started=now, ended=now)) for e in errors]
        return done

    @override
    def drain(self) -> Iterator[None]:
        if self._in_flight is not None:
            yield from self._in_flight.wait()
            self._ended = True
            yield

    @override
    def give_up(self, why: BaseException | None = None) -> None:
        """End what is under way; what has come of it can still be taken.

        Args:
            why: What ended the stage. Where that is the endpoint, requests under way get some seconds to be answered.
        """
        if self._in_flight is not None:
            patience = _PATIENCE if isinstance(why, EndpointError) else 0.0
            self._in_flight.close(self._endpoint.close if self._endpoint is not None else None, patience)
            self._ended = True

    @override
    def teardown(self, stage: str) -> None:
        self.give_up()
        self._in_flight = self._endpoint = None

    async def _work(self, item: Any) -> ItemResult:
        work, started = Work(), time.time()
        question_id = self.question_id(item)
        last: EndpointError | None = None
        try:
            await self.ask(item, work)
        except asyncio.CancelledError:
            pass  # given up; what has come is paid for
        except EndpointError as error:
            last = error
        usage = Usage(question_id, self._run_id, **dataclasses.asdict(work.tally), started=started, ended=time.time())
        outcome = ItemResult(tuple(work.records), tuple(work.errors + self._decided()), usage)
        if last is not None:
            raise LastResult(outcome, last)
        return outcome

    async def _settle(
        self, question_id: str, samples: Sequence[int | None], asking: Coroutine[Any, Any, T], work: Work
    ) -> T | None:
        """Return what a coroutine returns; None when it failed, which is noted, or when the budget is spent.

        Args:
            question_id: The question.
            samples: Which of its samples are asked for, or None alone for the question as a whole.
            asking: Asks for them.
            work: Gets what could not be had.
        """
        try:
            return await asking
        except BudgetSpent:
            work.unpaid = True
        except RequestFailed as failed:
            for sample in samples:
                self._note(question_id, sample, failed, work)
        return None

    def _note(self, question_id: str, sample: int | None, failed: RequestFailed, work: Work) -> None:
        """Keep why something could not be had.

        What may be the endpoint's fault waits until another request is answered, which shows that it is not.
        """
        failure = failed.failure
        permanent = failure.action != "retry" and failure.lasting
        error = RequestError.now(question_id, failure.kind, permanent, failure.message, sample, failed.attempts)
        if permanent and failure.action == "doubt":
            self._doubts.append((self.endpoint.answers, error))
        else:
            work.errors.append(error)

    def _decided(self) -> list[RequestError]:
        """Return what was refused for good, as an answer to another request has shown since."""
        decided = [error for answers, error in self._doubts if answers < self.endpoint.answers]
        self._doubts = [(answers, error) for answers, error in self._doubts if answers >= self.endpoint.answers]
        return decided


async def side_by_side(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines side by side; when one raises, the others are given up.

    Args:
        works: The coroutines.

    Returns:
        What they return, in their order.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def spoken(choice: Choice) -> Choice:
    """Return a completion that says something.

    Args:
        choice: The completion.

    Raises:
        RequestFailed: It failed, was filtered, refused or left empty.
    """
    if choice.failure is not None:
        raise RequestFailed(choice.failure)
    if choice.finish_reason == "content_filter":
        raise RequestFailed(Failure("content filter", "record", "the reply was filtered"))
    if choice.text.strip() or choice.reasoning.strip():
        return choice
    if choice.refusal.strip():
        words = " ".join(choice.refusal.split())[:200]
        raise RequestFailed(Failure("refusal", "record", f"the model refuses: {words}"))
    cut = ": all tokens went into thoughts that are not shown; raise max_tokens" * (choice.finish_reason == "length")
    message = f"nothing was said ({choice.finish_reason}){cut}"
    raise RequestFailed(Failure("empty reply", "record", message, lasting=False))
