"""Samples that are asked for together: those that did not come are asked for alone, since the others are paid for."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.stub_endpoint import Canned, StubEndpoint
from datamodules.batching.items import TeacherExample
from inference.chat_api.chat_endpoint import EndpointSettings
from inference.chat_api.chat_reply import parse_reply
from inference.chat_api.retries import EndpointError, RetryPolicy
from lightning_modules.chat_stage import Work
from lightning_modules.teacher import TeacherModule, consecutive, request_seed
from records.completed import Completed
from records.records import Question

QUESTION = Question("avqa/train/7", "avqa", "clip.mp4", "What is heard?", ("dog", "cat"), 0, "Which")
FIRST = request_seed(0, QUESTION.id)
Spoil = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


class Spoiling(StubEndpoint):
    """Spoils the choices of the first reply."""

    spoil: Spoil | None = None

    def _reply(self, body: dict[str, Any]) -> dict[str, Any]:
        reply = super()._reply(body)
        if self.spoil is not None:
            reply["choices"], self.spoil = self.spoil(reply["choices"]), None
        return reply


def ask(stub: StubEndpoint, settled: Any = (), **settings: Any) -> Work:
    endpoint = EndpointSettings(stub.url, "stub", retry=RetryPolicy(3, 0.01))
    module = TeacherModule(endpoint, **{"samples": 8, **settings})
    module.completed = Completed(frozenset((QUESTION.id, sample) for sample in settled))
    work = Work()

    async def run() -> None:
        await module.ask(TeacherExample(QUESTION), work)
        await module.endpoint.close()

    asyncio.run(run())
    return work


def requests(stub: StubEndpoint) -> list[tuple[int, int | None]]:
    """How many samples each request asked for, and from which seed on."""
    return [(body.get("n", 1), body.get("seed") and body["seed"] - FIRST) for body in stub.bodies]


def said(work: Work) -> dict[int, tuple[str, Any]]:
    return {trace.sample: (trace.reasoning, trace.seed) for trace in work.records}  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def calm() -> dict[int, tuple[str, Any]]:
    with StubEndpoint() as stub:
        found = said(ask(stub))
    assert sorted(found) == list(range(8)) and len(set(found.values())) == 8
    return found


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda choices: [c for c in choices if c["index"] not in (1, 2, 5)], id="missing"),
        pytest.param(
            lambda choices: [c | {"finish_reason": "error"} if c["index"] in (1, 2, 5) else c for c in choices],
            id="error",
        ),
        pytest.param(
            lambda choices: [c | {"message": None} if c["index"] in (1, 2, 5) else c for c in choices], id="torn"
        ),
    ],
)
def test_only_what_did_not_come_is_asked_for_again(calm: dict[int, tuple[str, Any]], spoil: Spoil) -> None:
    with Spoiling(keep=True) as stub:
        stub.spoil = spoil
        work = ask(stub)
    assert sum(n for n, _ in requests(stub)) == 8 + 3, "eight, and then the three that were missing"
    assert said(work) == calm and not work.errors
    assert work.tally.completion_tokens == 20 * (len(stub.bodies) and sum(n for n, _ in requests(stub)))


def test_a_run_that_goes_on_asks_for_what_is_missing(calm: dict[int, tuple[str, Any]]) -> None:
    with StubEndpoint(keep=True) as stub:
        work = ask(stub, settled=(0, 3, 4, 6, 7))
    assert sorted(requests(stub)) == [(1, 5), (2, 1)], "consecutive samples together, each with its own seed"
    assert said(work) == {sample: calm[sample] for sample in (1, 2, 5)}
    with StubEndpoint(keep=True) as stub:
        work = ask(stub, settled=(0, 3, 4, 6, 7), seed=None)
    assert requests(stub) == [(3, None)], "without seeds one request reads the question once"
    assert sorted(said(work)) == [1, 2, 5]


def test_what_was_refused_is_noted_and_does_not_cost_the_others() -> None:
    refused = {"content": None, "refusal": "I cannot."}
    with Spoiling(keep=True) as stub:
        stub.spoil = lambda choices: [c | {"message": refused} if c["index"] == 4 else c for c in choices]
        work = ask(stub)
    assert requests(stub) == [(8, 0)]
    assert [(e.sample, e.kind, e.permanent) for e in work.errors] == [(4, "refusal", True)]
    assert sorted(said(work)) == [0, 1, 2, 3, 5, 6, 7]


def test_a_part_that_is_refused_is_noted_by_its_samples() -> None:
    filtered = Canned(400, {"error": {"message": "blocked", "code": "content_filter"}})
    with StubEndpoint(rule=lambda body, headers: filtered) as stub:
        part, whole = ask(stub, settled=(0, 1, 4, 5, 6, 7)), ask(stub)
    assert [(e.sample, e.permanent) for e in part.errors] == [(2, True), (3, True)]
    assert [(e.sample, e.permanent) for e in whole.errors] == [(None, True)], "the question as a whole"


def test_an_endpoint_that_gives_fewer_at_once_is_asked_more_often(calm: dict[int, tuple[str, Any]]) -> None:
    class Few(StubEndpoint):
        def _reply(self, body: dict[str, Any]) -> dict[str, Any]:
            return super()._reply({**body, "n": min(body.get("n", 1), 3)})

    with Few(keep=True) as stub:
        work = ask(stub)
    assert requests(stub) == [(8, 0), (5, 3), (2, 6)] and said(work) == calm
    with (
        StubEndpoint(respect_n=False) as stub,
        pytest.raises(EndpointError, match="1 of 2 samples: it does not support n"),
    ):
        ask(stub, settled=range(6))


def test_choices_that_are_counted_from_one(calm: dict[int, tuple[str, Any]]) -> None:
    with Spoiling(keep=True) as stub:
        stub.spoil = lambda choices: [c | {"index": c["index"] + 1} for c in choices]
        work = ask(stub)
    assert len(stub.bodies) == 1 and said(work) == calm


def test_a_failed_completion_does_not_show_the_key() -> None:
    error = {"code": 502, "message": "upstream refused opensesame"}
    choices = [{"index": 0, "message": {"content": "dog"}}, {"index": 1, "error": error}]
    good, bad = parse_reply(json.dumps({"choices": choices}).encode(), "opensesame").choices
    assert (good.text, good.failure) == ("dog", None)
    assert bad.index == 1 and bad.failure is not None and bad.failure.action == "retry"
    assert "upstream refused ***" in bad.failure.message


def test_groups() -> None:
    assert consecutive([]) == [] and consecutive([1, 2, 5, 7, 8]) == [[1, 2], [5], [7, 8]]
