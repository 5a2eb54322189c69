"""Proxies of the environment: never for this machine, and named where they are in the way."""

import ssl

import httpx
import openai
import pytest

from benchmarks.stub_endpoint import StubEndpoint
from inference.chat_api.chat_endpoint import Reply
from inference.chat_api.endpoint_client import is_this_machine, open_client, proxy_for
from inference.chat_api.endpoint_settings import EndpointSettings
from inference.chat_api.retries import EndpointError, RetryPolicy, failure_of
from runtime.errors import UserError
from tests.inference.chat_api.test_chat_endpoint import ask

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.1.2.3", "::1", "0.0.0.0"])
def test_this_machine(host: str) -> None:
    assert is_this_machine(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "localhost.example", "api.openai.com", "128.0.0.1", "2001:db8::1", ""])
def test_other_machines(host: str) -> None:
    assert not is_this_machine(host)


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "nonsense://x"])
@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_requests_to_this_machine_use_no_proxy(monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str) -> None:
    monkeypatch.setenv(variable, proxy)
    with StubEndpoint() as stub:
        assert isinstance(ask(stub.url)[0], Reply)
        assert isinstance(ask(stub.url.replace("127.0.0.1", "localhost"))[0], Reply)


def test_the_sentence_of_a_failure_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with StubEndpoint(status=403) as proxy:
        address = proxy.url.removesuffix("/v1").removeprefix("http://")
        monkeypatch.setenv("http_proxy", f"http://me:my-password@{address}")
        (refused,) = ask("http://model.example:8000/v1")
        assert proxy.paths[0].startswith("http://model.example:8000/v1"), "it went through the proxy"
    assert isinstance(refused, EndpointError)
    assert f"the proxy http://{address} (http_proxy)" in str(refused) and "403" in str(refused)
    (unreachable,) = ask("http://model.example:8000/v1", retry=RetryPolicy(2, 0.01))
    assert f"the proxy http://{address}" in str(unreachable) and "has answered nothing" in str(unreachable)
    assert "my-password" not in str(refused) + str(unreachable)


@pytest.mark.parametrize(
    ("proxy", "words"),
    [("socks5://127.0.0.1:9", "needs the package socksio"), ("nonsense://x:1", "is not a proxy's address")],
)
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, proxy: str, words: str) -> None:
    monkeypatch.setitem(__import__("sys").modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", proxy)
    settings = EndpointSettings("https://model.example/v1", "m")
    with pytest.raises(UserError, match=words) as refused:
        open_client(settings, "")
    assert "ALL_PROXY" in str(refused.value) and "NO_PROXY" in str(refused.value)
    monkeypatch.setenv("NO_PROXY", "other.example, model.example")
    open_client(settings, "")


def test_which_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_for("https://model.example/v1") is None
    monkeypatch.setenv("all_proxy", "everywhere:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://secure:2")
    found = [proxy_for(f"{scheme}://model.example/v1") for scheme in ("http", "https")]
    assert [proxy and (proxy.url, proxy.variable) for proxy in found] == [
        ("http://everywhere:1", "all_proxy"),
        ("http://secure:2", "HTTPS_PROXY"),
    ]
    monkeypatch.setenv("NO_PROXY", ".example")
    assert proxy_for("https://model.example/v1") is None


def test_certificates_that_are_not_trusted_stop_the_stage() -> None:
    error = openai.APIConnectionError(request=httpx.Request("POST", "https://h/v1"))
    error.__cause__ = OSError("connect failed")
    error.__cause__.__cause__ = ssl.SSLCertVerificationError("self-signed certificate in certificate chain")
    failure = failure_of(error)
    assert failure is not None and (failure.kind, failure.action) == ("certificate", "stop")


def test_certificates_of_the_environment_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", f"{tmp_path}/none.pem")
    with pytest.raises(UserError, match="SSL_CERT_FILE"):
        open_client(EndpointSettings("https://model.example/v1", "m"), "")
    open_client(EndpointSettings("http://model.example/v1", "m"), "")
