import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from inference.vllm.bearer_token import VARIABLE, BearerToken
from inference.vllm.client import ServerRefused, VLLMClient
from inference.vllm_server import VLLMServer
from runtime.errors import UserError

TOKEN = "a-secret-of-some-length"
HEADER = (b"authorization", f"Bearer {TOKEN}".encode())


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> BearerToken:
    monkeypatch.setenv(VARIABLE, TOKEN)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    return BearerToken(app)


def answer(app: BearerToken, path: str, *headers: tuple[bytes, bytes], kind: str = "http") -> Any:
    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    asyncio.run(app({"type": kind, "path": path, "headers": list(headers)}, None, send))  # type: ignore[arg-type]
    return sent[0].get("status", sent[0]["type"])


@pytest.mark.parametrize("path", ["/v1/models", "/collective_rpc", "/pause", "/metrics", "/health/", "//health", "/"])
def test_every_route_wants_the_secret(guarded: BearerToken, path: str) -> None:
    assert answer(guarded, path) == 401
    assert answer(guarded, path, HEADER) == 200


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer wrong-secret-of-a-length")],
        [(b"authorization", TOKEN.encode())],
        [(b"authorization", HEADER[1][:-1])],
        [(b"authorization", HEADER[1] + b" ")],
        [(b"x-authorization", HEADER[1])],
        [HEADER, (b"authorization", b"Bearer other")],
        [(b"authorization", "Bearer ü".encode("latin-1"))],
    ],
)
def test_nothing_else_opens(guarded: BearerToken, headers: list[tuple[bytes, bytes]]) -> None:
    assert answer(guarded, "/pause", *headers) == 401


def test_health_needs_none_and_sockets_need_one(guarded: BearerToken) -> None:
    assert answer(guarded, "/health") == 200
    assert answer(guarded, "/v1/realtime", kind="websocket") == "websocket.close"
    assert answer(guarded, "/health", kind="websocket") == "websocket.close"
    assert answer(guarded, "/v1/realtime", HEADER, kind="websocket") == 200


@pytest.mark.parametrize(
    "token", ["short", "with spaces in the middle of it", "ünprintäble-secret-of-length", "a\nb" * 9]
)
def test_what_cannot_be_a_secret_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv(VARIABLE, token)
    for make in (lambda: VLLMServer("x"), lambda: VLLMClient("http://127.0.0.1:1")):
        with pytest.raises(UserError, match=f"{VARIABLE} must be") as refused:
            make()
        assert token not in str(refused.value)


def test_a_network_address_needs_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(UserError, match=f"0.0.0.0 is not a loopback address.*set {VARIABLE}"):
        VLLMServer("x", host="0.0.0.0")
    assert "--middleware" not in VLLMServer("x").command()
    monkeypatch.setenv(VARIABLE, TOKEN)
    command = VLLMServer("x", host="0.0.0.0").command()
    assert command[command.index("--middleware") + 1] == "inference.vllm.bearer_token.BearerToken"
    assert not any(TOKEN in part for part in command)  # others see command lines


class Handler(BaseHTTPRequestHandler):
    """A server that wants the secret."""

    def do_GET(self) -> None:
        allowed = self.headers.get_all("Authorization") == [f"Bearer {TOKEN}"]
        body = b'{"weight_version": "7"}'
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_the_client_sends_it_and_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        monkeypatch.delenv(VARIABLE, raising=False)
        with pytest.raises(ServerRefused, match=f"wants a secret: set {VARIABLE} here"):
            VLLMClient(url).weight_version()
        monkeypatch.setenv(VARIABLE, TOKEN + "-of-another")
        with pytest.raises(ServerRefused, match="wants another secret"):
            VLLMClient(url).weight_version()
        monkeypatch.setenv(VARIABLE, TOKEN)
        assert VLLMClient(url).weight_version() == "7"
    finally:
        server.shutdown()
        server.server_close()
