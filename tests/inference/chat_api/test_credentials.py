"""Passwords and keys in addresses reach no log, no record and no configuration on disk."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from benchmarks.stub_endpoint import Canned, StubEndpoint
from inference.chat_api.budget import Budget, BudgetSettings
from inference.chat_api.chat_endpoint import ChatEndpoint, RequestStats
from inference.chat_api.endpoint_settings import EndpointSettings, without_credentials
from inference.chat_api.retries import EndpointError, RetryPolicy
from inference.server_pool import ServerPool
from runtime.errors import UserError
from tests.support.stages import Stage

SECRET = "hunter2pass"


@pytest.mark.parametrize(
    "address",
    [
        f"http://me:{SECRET}@127.0.0.1:9/v1",
        f"http://{SECRET}@127.0.0.1:9/v1",
        f"http://:{SECRET}@127.0.0.1:9/v1",
        f"http://127.0.0.1:9/v1?api-key={SECRET}",
        f"http://127.0.0.1:9/v1?api-version=1&Code={SECRET}",
        f"me:{SECRET}@127.0.0.1:9/v1",
        f"ftp://me:{SECRET}@127.0.0.1:9/v1",
        f"http://me:x/{SECRET}@127.0.0.1/v1",
        f"http://me:{SECRET}?y@127.0.0.1/v1",
        f"http://me:{SECRET}#z@127.0.0.1/v1",
        f"http://me:{SECRET}@127.0.0.1:port/v1",
    ],
)
def test_an_address_with_credentials_is_refused_without_showing_them(address: str) -> None:
    with pytest.raises(UserError, match=r"endpoint\.base_url") as refused:
        EndpointSettings(address, "m")
    assert SECRET not in str(refused.value)
    if "?" not in address:
        with pytest.raises(UserError, match="server_urls") as unused:
            ServerPool([address])
        assert SECRET not in str(unused.value)


def test_the_stage_says_so_and_writes_nothing(
    run_teacher: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_teacher(f"http://me:{SECRET}@127.0.0.1:9/v1", tmp_path)
    said: Any = capsys.readouterr()
    assert "must not carry credentials" in said.err and "OPENAI_API_KEY" in said.err
    assert SECRET not in said.out + said.err
    assert not any(SECRET.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_addresses_for_messages() -> None:
    assert without_credentials("http://me:a/b@c@host:1/v1?key=x") == "http://***@host:1/v1"
    assert without_credentials("host/v1") == "host/v1" and without_credentials("me:x@host") == "***@host"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("header", ["api-key", "Authorization"])
def test_a_redirection_to_another_host_is_not_followed(
    status: int, header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would get the key: clients drop ``Authorization`` there, but not a header of another name."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)

    async def ask(url: str) -> None:
        endpoint = ChatEndpoint(
            EndpointSettings(url, "m", key_header=header, retry=RetryPolicy(attempts=1), timeout=2.0),
            Budget(BudgetSettings()),
        )
        try:
            await endpoint.chat([{"role": "user", "content": "?"}], RequestStats())
        finally:
            await endpoint.close()

    with StubEndpoint() as other:
        elsewhere = f"http://localhost:{other.port}/v2/chat/completions"
        sent_on = Canned(status, b"", f"Location: {elsewhere}?sig={SECRET}\r\n")
        with StubEndpoint(rule=lambda body, headers: sent_on) as stub:
            sentence = rf"{stub.port} sends requests on to {elsewhere}, .*endpoint\.base_url"
            with pytest.raises(EndpointError, match=sentence) as refused:
                asyncio.run(ask(stub.url))
    assert other.paths == other.headers == [] and SECRET not in str(refused.value)
