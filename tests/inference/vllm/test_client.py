"""What listens at a rollout server's address may be another program."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from inference.vllm.client import ServerRefused, VLLMClient
from inference.vllm.sampling import SamplingParams

ONE = SamplingParams(n=1, max_tokens=1, temperature=1.0, seed=0, stop_token_ids=())
ASKED: dict[str, Callable[[VLLMClient], Any]] = {
    "model": lambda client: client.model(),
    "weight_version": lambda client: client.weight_version(),
    "is_paused": lambda client: client.is_paused(),
    "first_token": lambda client: client.first_token([1], 1.0, 2, 5),
    "generate": lambda client: client.generate([1], "", ONE),
    "score": lambda client: client.score([1], "", [2]),
}


@contextmanager
def answers(status: int, body: bytes, **headers: str) -> Iterator[VLLMClient]:
    """A program that answers everything alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    client = VLLMClient(f"http://127.0.0.1:{server.server_address[1]}")
    try:
        yield client
    finally:
        client.close()
        server.shutdown()
        server.server_close()


OTHERS = [None, [], {}, "ok", {"data": []}, {"data": [{"id": "llama", "object": "model"}]}, {"choices": [{"index": 0}]}]


@pytest.mark.parametrize("body", OTHERS, ids=str)
def test_another_program_is_named(body: Any) -> None:
    with answers(200, json.dumps(body).encode()) as client:
        for ask in ASKED.values():
            with pytest.raises(ServerRefused, match=rf"{client.url}/\S+ answered otherwise than vLLM does .*--port"):
                ask(client)


def test_a_web_page_is_named() -> None:
    with answers(200, b"<html>hi</html>") as client, pytest.raises(ServerRefused, match="is it a vLLM server"):
        client.model()


def test_a_redirection_is_named() -> None:
    """Followed, a request to sample would lose its body and be one for a page."""
    away = "https://gpu.example/login"
    refused = pytest.raises(ServerRefused, match=rf"sends requests on to {away}: .* that address")
    with answers(302, b"", Location=away) as client, refused:
        client.generate([1], "", ONE)
