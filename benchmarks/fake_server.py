"""A rollout server that checks what it is sent, records it, and answers with made-up tokens.

Tests ask it what it was sent; benchmarks let it take a given time.
"""

import base64
import contextlib
import hashlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import soundfile
import torch

from datamodules.batching.audio_tokens import num_audio_tokens
from inference.weight_transfer.weight_sync import read_specs

AUDIO_TOKEN, END_TOKEN = 3, 2
HOP = 160
VOCABULARY = 64
STARTED = {"dtype": "float32", "logprobs_mode": "processed_logprobs", "max_num_seqs": 32, "max_model_len": 768}


@dataclass
class FakeServer:
    """What it was sent, and how it is to behave; use it in a ``with`` statement.

    Attributes:
        checkpoint: What it says that it was started with.
        calls: Route and weight version of each request, in the order in which they were answered.
        generated: Body, samples of the clip and weight version of each generate request.
        behave: Called with route and body before an answer; may sleep, or return a status and a message to fail.
        settings: Changes to how it was started.
        finish_reason: Why completions end; called with the clip's samples.
    """

    checkpoint: Path
    calls: list[tuple[str, str]] = field(default_factory=list)
    generated: list[dict[str, Any]] = field(default_factory=list)
    behave: Callable[[str, Any], tuple[int, str] | None] = lambda route, body: None
    settings: dict[str, Any] = field(default_factory=dict)
    finish_reason: Callable[[Any], str] = lambda samples: "stop"
    version: str = "default"
    weights: str = ""
    paused: bool = False
    port: int = 0
    sampled_while_paused: int = 0
    most_at_once: int = 0
    at_once: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def __enter__(self) -> "FakeServer":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start as a fresh process would: with the checkpoint's weights, not paused."""
        self.version, self.paused = "default", False
        self.weights = str(self.checkpoint)
        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        self._http.daemon_threads = True
        self._open: set[socket.socket] = set()
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Stop as a killed process would: connections end."""
        self._http.shutdown()
        self._http.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def pushes(self) -> list[str]:
        """Versions that it was given."""
        return [version for route, version in self.calls if route == "/update_weight_version"]

    def answer(self, route: str, body: Any) -> tuple[int, Any]:
        """Return status and body of the answer to a request."""
        if failure := self.behave(route, body):
            return failure[0], {"error": {"message": failure[1]}}
        if route == "/v1/models":
            return 200, {"data": [{"root": str(self.checkpoint), "max_model_len": self.setting("max_model_len")}]}
        if route == "/server_info":  # as vLLM 0.32 where there is neither pip nor uv
            return 500, {"error": {"message": "'NoneType' object has no attribute 'splitlines'"}}
        if route == "/pause":
            self.paused = True
        elif route == "/resume":
            self.paused = False
        elif route == "/is_paused":
            return 200, {"is_paused": self.paused}
        elif route == "/collective_rpc":
            assert self.paused, "weights must not change under running requests"
            assert body["method"] == "reload_weights"
            directory = body["kwargs"]["weights_path"]
            if not Path(directory).is_dir():
                return 500, {"error": {"message": f"Cannot find any model weights with {directory}"}}
            read = read_specs(directory)
            if body["kwargs"].get("is_checkpoint_format", True):
                self.weights = _fingerprint(directory)
            else:
                assert read == {}, "its weights must stay as they are"
        elif route == "/update_weight_version":
            self.version = body["new_version"]
        elif route == "/weight_info":
            return 200, {"weight_version": self.version}
        elif route == "/inference/v1/generate":
            wanted, most = body["sampling_params"], self.setting("max_num_seqs")
            if wanted["n"] > most:
                refusal = f"sampling_params.n must be at most the server's max_num_seqs ({most}), got {wanted['n']}."
                return 400, {"error": {"message": refusal}}
            return 200, self._first_token(wanted) if "content_parts" not in body else self._generate(body)
        elif route != "/health":
            return 404, {"detail": "Not Found"}
        return 200, {}

    def setting(self, name: str) -> Any:
        """How it was started."""
        return {**STARTED, **self.settings}[name]

    def _first_token(self, wanted: Any) -> Any:
        """Answer a prompt without a clip: all tokens of a vocabulary with the log-probabilities that vLLM computes."""
        dtype = getattr(torch, self.setting("dtype"))
        logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(0)).mul(4).to(dtype).float()
        mode = self.setting("logprobs_mode")
        scores = logits / wanted["temperature"] if mode.startswith("processed") else logits
        scores = scores.log_softmax(-1) if mode.endswith("logprobs") else scores
        rows = [{"token_id": token, "logprob": float(scores[token])} for token in scores.argsort(descending=True)]
        rows = [{**row, "token_id": int(row["token_id"])} for row in rows]
        drawn = {**rows[7], "top_logprobs": [rows[7], *rows][: max(wanted["logprobs"], 1)]}
        choices = [{"index": index, "logprobs": {"content": [drawn]}} for index in range(wanted["n"])]
        return {"prompt_token_ids": [], "choices": choices}

    def _generate(self, body: Any) -> Any:
        with self.lock:
            self.at_once += body["sampling_params"]["n"]
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.sampled_while_paused += self.paused
        while self.paused:
            time.sleep(0.01)
        time.sleep(0.02)
        version = self.version
        (part,) = body["content_parts"]
        kind, _, data = part["url"].partition(";base64,")
        assert (part["type"], kind) == ("audio_url", "data:audio/wav")
        audio = io.BytesIO(base64.b64decode(data))
        assert soundfile.info(audio).subtype == "FLOAT"
        audio.seek(0)
        samples, rate = soundfile.read(audio, dtype="float32")
        assert rate == 16_000 and samples.ndim == 1
        ids = body["token_ids"]
        assert ids.count(AUDIO_TOKEN) == 1, "the prompt must have one placeholder, not expanded"
        place = ids.index(AUDIO_TOKEN)
        expanded = ids[:place] + [AUDIO_TOKEN] * num_audio_tokens(len(samples) // HOP) + ids[place + 1 :]
        wanted = body["sampling_params"]
        choices = []
        for index in range(wanted["n"]):
            text = f"{wanted.get('seed', 0) + index}/{self.weights}/{wanted['temperature']}/{ids}".encode()
            tokens = [6 + byte % 250 for byte in hashlib.sha256(text).digest()[: wanted["max_tokens"] - 1]] + [
                END_TOKEN
            ]
            choices.append(
                {
                    "index": index,
                    "token_ids": tokens,
                    "finish_reason": self.finish_reason(samples),
                    "logprobs": {"content": [{"token_id": t, "logprob": -1.0} for t in tokens]},
                    "weight_versions": [{"version": version, "start": 0, "end": len(tokens)}],
                }
            )
        with self.lock:
            self.at_once -= wanted["n"]
            self.generated.append({"body": body, "samples": samples, "version": version})
        scores = self._scores(expanded) if wanted.get("prompt_logprobs") is not None else None
        return {"prompt_token_ids": expanded, "choices": choices, "prompt_logprobs": scores}

    def _scores(self, ids: list[int]) -> list[Any]:
        """Make up log-probabilities of a prompt that depend on the weights and on what stands before each token."""
        rows: list[Any] = [None]
        for place in range(1, len(ids)):
            byte = hashlib.sha256(f"{self.weights}/{ids[: place + 1]}".encode()).digest()[0]
            rows.append({str(ids[place]): {"logprob": -1.0 - byte / 64}})
        return rows

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            failed = False

            def setup(self) -> None:
                fake._open.add(self.request)
                super().setup()

            def finish(self) -> None:
                fake._open.discard(self.request)
                super().finish()

            def reply(self) -> None:
                if self.failed:  # as uvicorn, which closes a connection after an error without having said so
                    self.close_connection = True
                    return
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                route = self.path.partition("?")[0]
                try:
                    status, answer = fake.answer(route, body)
                except Exception as error:  # a failed check of what was sent
                    status, answer = 400, {"error": {"message": f"{type(error).__name__}: {error}"}}
                with fake.lock:
                    fake.calls.append((route, fake.version))
                self.failed = status >= 500
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = reply

            def log_message(self, *args: object) -> None:
                pass

        return Handler


def _fingerprint(directory: str) -> str:
    digest = hashlib.sha256()
    for file in sorted(Path(directory).glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
