"""One endpoint and what can come back from it: the stub answers as real ones do."""

import asyncio
import email.utils
import gzip
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.stub_endpoint import Canned, StubEndpoint, text_of
from inference.chat_api.budget import Budget, BudgetSettings
from inference.chat_api.chat_endpoint import ChatEndpoint, Reply, RequestFailed, RequestStats
from inference.chat_api.endpoint_settings import EndpointSettings
from inference.chat_api.retries import EndpointError, RetryPolicy, redacted, retry_after
from runtime.errors import UserError

QUICK = RetryPolicy(attempts=4, first_delay=0.01, max_delay=0.05)
Rule = Callable[[dict[str, Any], dict[str, str]], Canned | None]
Result = Reply | RequestFailed | EndpointError


def error(status: int, message: str = "no", code: str | None = None, headers: str = "") -> Canned:
    return Canned(status, {"error": {"message": message, "code": code}}, headers)


def ask(url: str, count: int = 1, retry: RetryPolicy = QUICK, **settings: Any) -> list[Result]:
    """Ask so many requests with different texts, one after another unless in_flight says otherwise."""

    async def run() -> list[Result]:
        endpoint = ChatEndpoint(
            EndpointSettings(url, "stub", retry=retry, **{"in_flight": 1, "timeout": 2.0, **settings}),
            Budget(BudgetSettings()),
        )

        async def one(number: int) -> Result:
            try:
                return await endpoint.chat([{"role": "user", "content": f"number {number}?"}], RequestStats())
            except (RequestFailed, EndpointError) as failed:
                return failed

        if endpoint.settings.in_flight == 1:
            results = [await one(number) for number in range(count)]
        else:
            results = list(await asyncio.gather(*map(one, range(count))))
        await endpoint.close()
        return results

    return asyncio.run(run())


def number_of(body: dict[str, Any]) -> int:
    return int(text_of(body).split()[1][:-1])


def only_for(numbers: set[int], canned: Canned) -> Rule:
    return lambda body, headers: canned if number_of(body) in numbers else None


# Refusals


@pytest.mark.parametrize(
    ("canned", "kind"),
    [
        (error(403, "your input was flagged", "moderation"), "content filter"),
        (error(400, "Input data may contain inappropriate content", "data_inspection_failed"), "content filter"),
        (error(451), "content filter"),
        (error(403), "HTTP 403"),
        (Canned(403, b"<html>forbidden</html>", "Content-Type: text/html\r\n"), "HTTP 403"),
        (error(404), "HTTP 404"),
        (error(400, "cannot read this image"), "HTTP 400"),
        (error(422), "HTTP 422"),
    ],
)
@pytest.mark.parametrize("place", [0, 2])
def test_one_refused_input_among_good_ones(canned: Canned, kind: str, place: int) -> None:
    with StubEndpoint(rule=only_for({place}, canned)) as stub:
        results = ask(stub.url, 5, in_flight=4, retry=RetryPolicy(4, 0.1, 0.2))
    failed = results[place]
    assert isinstance(failed, RequestFailed) and failed.failure.kind == kind
    assert failed.failure.action in ("record", "doubt") and failed.failure.lasting
    assert sum(isinstance(result, Reply) for result in results) == 4


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405])
def test_an_endpoint_that_refuses_all_from_the_start(status: int) -> None:
    with StubEndpoint(status=status) as stub:
        results = ask(stub.url, 5)
        assert stub.counts["requests"] <= 3
    assert all(isinstance(result, EndpointError) for result in results)
    assert str(status) in str(results[0]) and "the same command again" in str(results[0])


@pytest.mark.parametrize(
    "canned",
    [
        error(402, "Insufficient Balance"),
        error(429, "You exceeded your current quota, please check your plan", "insufficient_quota"),
        error(403, "quota", "insufficient_user_quota"),
        error(400, "Your credit balance is too low to access the API"),
        error(400, "hard limit", "billing_hard_limit_reached"),
    ],
)
def test_a_quota_that_ends_stops_at_once(canned: Canned) -> None:
    with StubEndpoint(rule=lambda body, headers: canned if number_of(body) > 1 else None) as stub:
        results = ask(stub.url, 5)
        assert stub.counts["requests"] == 3, "nothing is sent after it"
    assert [type(result) for result in results] == [Reply, Reply, *3 * [EndpointError]]
    assert "no credit left" in str(results[2]) and "asks for what is missing" in str(results[2])


def test_an_endpoint_that_begins_to_refuse_all_is_told_from_inputs_that_are_refused() -> None:
    """After twenty refusals what was answered before is sent again."""
    with StubEndpoint(rule=lambda body, headers: error(403) if number_of(body) > 1 else None) as stub:
        results = ask(stub.url, 50)
        assert stub.counts["answered"] == 4, "two questions, and two probes that were answered"
    assert sum(isinstance(result, RequestFailed) for result in results) == 48

    sent = []

    def suspended(body: dict[str, Any], headers: dict[str, str]) -> Canned | None:
        sent.append(number_of(body))
        return error(403) if len(sent) > 2 else None

    with StubEndpoint(rule=suspended) as stub:
        results = ask(stub.url, 50)
    assert sent == [*range(22), 1]
    assert all(isinstance(result, EndpointError) for result in results[21:])
    assert "one like those that it answered before" in str(results[21])


def test_too_large_requests_name_the_settings_and_are_asked_again() -> None:
    for canned in (
        Canned(413, b"<html>413 Request Entity Too Large</html>", "Content-Type: text/html\r\n"),
        error(429, "Request too large for gpt-4o: Limit 30000, Requested 40000"),
        error(400, "This model's maximum context length is 4096 tokens"),
    ):
        with StubEndpoint(rule=only_for({1}, canned)) as stub:
            failed = ask(stub.url, 3)[1]
        assert isinstance(failed, RequestFailed) and not failed.failure.lasting
        assert failed.failure.kind == "too large" and "frames.max_side" in str(failed)


# Waiting


def test_what_is_asked_to_wait() -> None:
    date = email.utils.formatdate(1_000_086_400, usegmt=True)
    said = ["86400", "inf", date, "-5", "nan", "soon", "", "Thu, 99 Foo 2026", "1e999", email.utils.formatdate(0)]
    found = [retry_after({"retry-after": value}, now=1e9) for value in said]
    assert found == [86400, math.inf, 86400, 0, None, None, None, None, math.inf, 0]
    assert retry_after({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert retry_after({"retry-after-ms": "x", "retry-after": "9"}) == 9


@pytest.mark.parametrize("value", ["86400", "inf", "a date", "1e300"])
def test_a_wait_beyond_the_limit_ends_the_stage_with_a_sentence(value: str) -> None:
    if value == "a date":
        value = email.utils.formatdate(time.time() + 86400, usegmt=True)
    with StubEndpoint(rule=lambda body, headers: error(429, "daily limit", headers=f"Retry-After: {value}\r\n")) as s:
        (ended,) = ask(s.url)
    assert isinstance(ended, EndpointError) and "daily limit" in str(ended) and "max_wait" in str(ended)
    assert ("end of time" in str(ended)) == (value in ("inf", "1e300"))


@pytest.mark.parametrize("value", ["-3", "nan", "soon", "0"])
def test_a_wait_that_is_none_is_the_usual_pause(value: str) -> None:
    seen = []

    def once(body: dict[str, Any], headers: dict[str, str]) -> Canned | None:
        seen.append(body)
        return error(429, headers=f"Retry-After: {value}\r\n") if len(seen) == 1 else None

    with StubEndpoint(rule=once) as stub:
        (reply,) = ask(stub.url)
    assert isinstance(reply, Reply) and len(seen) == 2


def test_a_long_wait_is_said_once_and_holds_all_requests_back(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.chat_api.chat_endpoint._LONG", 0.2)
    times = []

    def first(body: dict[str, Any], headers: dict[str, str]) -> Canned | None:
        times.append(time.monotonic())
        return error(429, "rpm", headers="Retry-After: 0.5\r\n") if len(times) == 1 else None

    with StubEndpoint(rule=first) as stub, caplog.at_level(logging.WARNING):
        assert all(isinstance(result, Reply) for result in ask(stub.url, 6, in_flight=2))
    late = [at for at in times if at > times[0] + 0.45]
    assert len(times) == 7 and len(late) >= 5, "only what was under way came in between"
    assert sum("asks to wait: no request is sent until 20" in record.message for record in caplog.records) == 1


# Replies that are none


BROKEN = {
    "web page": Canned(200, b"<html>sign in</html>", "Content-Type: text/html\r\n"),
    "gzip": Canned(200, gzip.compress(b"{}")[:-6] + b"broken", "Content-Encoding: gzip\r\n"),
    "reset": Canned(200, b'{"choices": [{"mess', missing=100),
    "no choices": Canned(200, {"choices": []}),
    "json": Canned(200, b'{"choices": [{"mess'),
    "error 200": Canned(200, {"error": {"code": 502, "message": "upstream"}}),
    "stream": Canned(200, b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_replies_are_asked_for_again(name: str) -> None:
    seen = []

    def twice(body: dict[str, Any], headers: dict[str, str]) -> Canned | None:
        seen.append(body)
        return BROKEN[name] if len(seen) in (1, 2) else None

    with StubEndpoint(rule=twice) as stub:
        (reply,) = ask(stub.url)
    assert isinstance(reply, Reply) and len(seen) == 3


def test_an_address_that_shows_web_pages_is_named() -> None:
    with StubEndpoint(rule=lambda body, headers: BROKEN["web page"]) as stub:
        (ended,) = ask(stub.url, retry=RetryPolicy(10, 0.01))
        assert stub.counts["requests"] == 3
    assert isinstance(ended, EndpointError) and "a web page" in str(ended) and "endpoint.base_url" in str(ended)


# Streams


def test_an_endpoint_that_only_streams() -> None:
    """It refuses other requests; the stub sends what real ones send."""
    chunks = b'data: {"choices": [{"index": 0, "delta": {"content": "a dog"}, "finish_reason": "stop"}]}\n\n'
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}\n\ndata: [DONE]\n\n'

    def streams(body: dict[str, Any], headers: dict[str, str]) -> Canned:
        if not body.get("stream"):
            return error(400, "This model only support stream mode, please enable the stream parameter")
        assert body["stream_options"] == {"include_usage": True}
        return Canned(200, chunks + usage, "Content-Type: text/event-stream\r\n")

    with StubEndpoint(rule=streams) as stub:
        results = ask(stub.url, 2)
        assert stub.counts["requests"] == 3
        results += ask(stub.url, stream=True)
        assert stub.counts["requests"] == 4
        many = ask(stub.url, 40, in_flight=40)  # those that were sent before the first one was refused are asked again
        results += ask(stub.url, extra_body={"stream": True, "stream_options": {"include_usage": True}})
    assert [isinstance(r, Reply) and (r.choices[0].text, r.prompt_tokens) for r in results] == 4 * [("a dog", 5)]
    assert len(many) == 40 and all(isinstance(result, Reply) for result in many)


def test_a_reply_that_never_ends_is_given_up() -> None:
    class Dripping(StubEndpoint):
        async def _respond(self, body: dict[str, Any], headers: dict[str, str], writer: Any) -> bool:
            self.counts["requests"] += 1
            writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 100000\r\n\r\n")
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)

    with Dripping() as stub:
        (ended,) = ask(stub.url, timeout=0.1, retry=RetryPolicy(2, 0.01))
        assert stub.counts["requests"] == 2
    assert isinstance(ended, EndpointError) and "time-out" in str(ended)


# Keys and addresses


def test_azure_addresses_and_headers(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("AZURE_KEY", "a-very-secret-key")
    caplog.set_level("DEBUG")
    with StubEndpoint(keep=True) as stub:
        base = stub.url.replace("/v1", "/openai/deployments/d?api-version=2024-10-21")
        ask(base, api_key_env="AZURE_KEY", key_header="api-key")
        ask(stub.url, api_key_env="AZURE_KEY", key_header="x-gateway-key")
        ask(stub.url, api_key_env="NO_SUCH_KEY")
        ask(stub.url, api_key_env="AZURE_KEY")
    assert stub.paths[0] == "/openai/deployments/d/chat/completions?api-version=2024-10-21"
    names = ("api-key", "x-gateway-key", "authorization")
    key = "a-very-secret-key"
    assert [{n: h[n] for n in names if n in h} for h in stub.headers] == [
        {"api-key": key},
        {"x-gateway-key": key},
        {},
        {"authorization": f"bearer {key}"},
    ]
    assert key not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "http://h/v1?api_key=s",
        "http://h/v1?key=s",
        "http://u:p@h/v1",
        "http://h/v1?code=s",
        "h:8000/v1",
        "http://h:99999/v1",
        "http:///v1",
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(UserError, match=r"endpoint\.base_url"):
        EndpointSettings(url, "m")


@pytest.mark.parametrize("key", [" k-1 \n", "k-1\r\n", "\tk-1"])
def test_white_space_around_a_key_is_left_out(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("SOME_KEY", key)
    assert EndpointSettings("http://h/v1", "m", api_key_env="SOME_KEY").key() == "k-1"


@pytest.mark.parametrize(
    "key", ["  \n", "schlüssel-1", "two lines\nsecret-2", "a secret-3", '"secret-4"', "secret\x005"]
)
def test_a_key_that_cannot_be_one_is_refused_by_its_variable(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    if "\x00" in key:
        monkeypatch.setattr("os.environ", {"SOME_KEY": key})
    else:
        monkeypatch.setenv("SOME_KEY", key)
    with pytest.raises(UserError, match="environment variable SOME_KEY") as refused:
        EndpointSettings("http://h/v1", "m", api_key_env="SOME_KEY").key()
    assert "secret" not in str(refused.value) and "schl" not in str(refused.value)


@pytest.mark.parametrize("padding", [0, 255, 262, 270])
def test_a_key_that_is_repeated_is_in_no_message(monkeypatch: pytest.MonkeyPatch, padding: int) -> None:
    """Also where the message is cut in the middle of it, in other letters, or where it is no error at all."""
    monkeypatch.setenv("SOME_KEY", "a-very-secret-key")
    echoes = ["x" * padding + "A-Very-Secret-Key " + "y" * 300, "x" * padding + "a-very-secret-key"]
    canned = [error(400, echoes[0]), Canned(200, ("<p>" + echoes[1]).encode()), Canned(500, echoes[1].encode())]
    for response in canned:
        with StubEndpoint(rule=lambda body, headers, response=response: response) as stub:
            (failed,) = ask(stub.url, api_key_env="SOME_KEY", retry=RetryPolicy(1, 0.01))
        assert "very" not in str(failed).lower(), failed


def test_what_looks_like_a_secret_is_taken_out() -> None:
    said = "sk-abcdef123 and Bearer xyz at http://user:pass@proxy:3128 \ud83d"
    assert redacted(said) == "*** and Bearer *** at http://***@proxy:3128 \ufffd"


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "too short"}},
        [{"error": {"message": "too short"}}],
        {"message": "too short"},
        {"detail": "too short"},
        {"detail": [{"loc": ["body"], "msg": "too short"}]},
        {"error": "too short"},
        b"too short",
    ],
)
def test_what_an_error_says_is_found_in_any_body(body: Any) -> None:
    with StubEndpoint(rule=lambda _, headers: Canned(422, body)) as stub:
        (failed,) = ask(stub.url)
    assert str(failed) == "Error code: 422 - too short"


def test_an_endpoint_that_answers_errors_alone_is_not_said_to_be_silent() -> None:
    with StubEndpoint(rule=lambda body, headers: error(503, "the model is loading")) as stub:
        (result,) = ask(stub.url)
    assert isinstance(result, EndpointError)
    said = str(result)
    assert "answered each of 4 requests with an error" in said and "503 - the model is loading" in said
    assert "start it" not in said and "answered nothing" not in said
