"""What the stages that ask an endpoint have in common: the teacher and the fact verifier."""

import asyncio
import time
import uuid
from abc import abstractmethod
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from datamodules.records import Record
from datamodules.request_records import Outcome, RequestError, Usage
from lightning_modules.budget import Budget, BudgetSettings, BudgetSpent
from lightning_modules.chat_endpoint import ChatEndpoint, EndpointSettings, RequestFailed, Tally
from lightning_modules.in_flight import InFlight

T = TypeVar("T")


class EndpointStage(LightningModule):
    """A module whose ``predict_step`` hands its items to an endpoint and does not wait for the answers.

    Many requests are under way at once. ``predict_step`` waits only when there are too many, which holds the
    DataLoader's workers back. A writer takes what has ended (:meth:`outcomes`) after each batch and at the end
    (:meth:`drain`), and tells at the beginning what is on disk (:attr:`settled`, :attr:`spent`).

    Attributes:
        record_type: What the stage writes.
        settled: Question and sample of all results that are on disk already.
        spent: Tokens and money that earlier runs took.
        provenance: Fields that all of its results share; results of other settings are not mixed with them.
    """

    record_type: type[Record]

    def __init__(self, endpoint: EndpointSettings, budget: BudgetSettings, requests_per_item: int) -> None:
        """Prepare; nothing is sent before the first batch.

        Args:
            endpoint: Where requests go.
            budget: Prices and limits.
            requests_per_item: How many requests an item makes at once; decides how many items are under way.
        """
        super().__init__()
        self.endpoint_settings = endpoint
        self.budget_settings = budget
        self.settled: set[tuple[str, int | None]] = set()
        self.spent: tuple[int, float] = (0, 0.0)
        self.provenance: dict[str, Any] = {}
        self._items_under_way = max(2, -(-2 * endpoint.in_flight // max(1, requests_per_item)))
        self._run_id = uuid.uuid4().hex[:12]
        self._in_flight: InFlight[Outcome] | None = None
        self._endpoint: ChatEndpoint | None = None

    @abstractmethod
    def question_id(self, item: Any) -> str:
        """Return which question an item is about."""

    @abstractmethod
    async def results(self, item: Any, errors: list[RequestError], tally: Tally) -> Sequence[Record]:
        """Return an item's results; what could not be had goes into ``errors``."""

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
            self._in_flight = InFlight(self._items_under_way)
        for item in batch:
            if self.endpoint.budget.exhausted:
                rank_zero_info(
                    "the budget is spent: no more requests are sent; raise it and run the same command again"
                )
                raise StopIteration
            self._in_flight.submit(self._work(item))
        return len(batch)

    def outcomes(self) -> list[Outcome]:
        """Return what has ended since the last call."""
        return self._in_flight.finished() if self._in_flight is not None else []

    def drain(self) -> Iterator[list[Outcome]]:
        """Yield what ends until nothing is under way."""
        if self._in_flight is not None:
            yield from self._in_flight.drain()

    @override
    def teardown(self, stage: str) -> None:
        if self._in_flight is not None:
            self._in_flight.close(self._endpoint.close if self._endpoint is not None else None)
            self._in_flight = self._endpoint = None

    async def _work(self, item: Any) -> Outcome:
        tally, errors, started = Tally(), list[RequestError](), time.time()
        question_id = self.question_id(item)
        records = await self.results(item, errors, tally)
        usage = Usage(
            question_id,
            self._run_id,
            tally.requests,
            tally.retries,
            tally.prompt_tokens,
            tally.completion_tokens,
            tally.cost,
            started,
            time.time(),
        )
        return Outcome(tuple(records), tuple(errors), usage)

    async def _settle(
        self, question_id: str, sample: int | None, work: Coroutine[Any, Any, T], errors: list[RequestError]
    ) -> T | None:
        """Return what a coroutine returns; None when it failed, which is noted, or when the budget is spent."""
        try:
            return await work
        except BudgetSpent:
            return None
        except RequestFailed as failed:
            permanent = failed.failure.action == "record"
            kind, message = failed.failure.kind, failed.failure.message
            errors.append(RequestError.now(question_id, kind, permanent, message, sample, failed.attempts))
            return None

    async def _all(self, works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """Run coroutines side by side; when one raises, the others are given up."""
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
