"""An endpoint that answers by rule after a fixed time, and fails as often and in as many ways as it is told to.

It looks at nothing that it is sent but the text: it measures the client and tests its retries. Run it by itself with
``python -m benchmarks.stub_endpoint --port 8001 --latency 0.2``.
"""

import argparse
import asyncio
import hashlib
import json
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

from records.reasoning_tags import tagged_answer, tagged_thought

FAULTS = ("429", "500", "time-out", "dropped", "truncated")
Answer = Callable[[dict[str, Any], int], str]


@dataclass(frozen=True)
class Canned:
    """A response as it is to be sent.

    Attributes:
        status: Its status.
        content: Its body: bytes as they are, anything else as JSON.
        headers: Further headers, each ending in a line break; one with a Content-Type replaces JSON's.
        missing: Announce so many bytes more than are sent, and end the connection.
    """

    status: int = 200
    content: Any = b""
    headers: str = ""
    missing: int = 0


Rule = Callable[[dict[str, Any], dict[str, str]], "Canned | None"]


@dataclass
class StubEndpoint:
    """The endpoint; ``with StubEndpoint() as stub`` serves on a thread.

    Attributes:
        latency: Seconds before each answer.
        fault_rate: Part of the requests that fail.
        faults: How they fail, one of these each time.
        hang: Seconds that a request hangs that is to time out.
        answer: Makes the text from request and sample number; by default one of the listed options by hash.
        port: Where to listen; 0 lets the system choose.
        keep: Keep the bodies of all requests.
        status: Answer every request with this error status.
        respect_n: Return as many choices as asked for.
        seed: Decides which requests fail, and how the first does.
        journal: Gets a line for each request: how it was answered.
        rule: Makes the response from a request's body and headers; where it gives None the stub answers as ever.
    """

    latency: float = 0.0
    fault_rate: float = 0.0
    faults: tuple[str, ...] = FAULTS
    hang: float = 5.0
    answer: Answer | None = None
    port: int = 0
    keep: bool = False
    status: int | None = None
    respect_n: bool = True
    seed: int = 0
    journal: TextIO | None = None
    rule: Rule | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0

    @property
    def url(self) -> str:
        """The API's address."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "StubEndpoint":
        """Begin to serve."""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        """End all connections and free the port."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._random = random.Random(self.seed)
        self._at_once = 0
        self._writers: set[asyncio.StreamWriter] = set()
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port, limit=2**26, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin1").lower()
                self.paths.append(head.split(" ")[1])
                headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
                try:
                    if not await self._respond(body, headers, writer):
                        return
                finally:
                    self._at_once -= 1
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _respond(self, body: dict[str, Any], headers: dict[str, str], writer: asyncio.StreamWriter) -> bool:
        """Answer one request; returns False when the connection is to end."""
        self.counts["requests"] += 1
        if self.keep:
            self.bodies.append(body)
            self.headers.append(headers)
        if self.latency:
            await asyncio.sleep(self.latency)
        if self.status is not None:
            self._send(writer, self.status, {"error": {"message": f"the stub says {self.status}", "code": None}})
            return True
        if self.rule is not None and (canned := self.rule(body, headers)) is not None:
            self._count(f"canned {canned.status}")
            self._send(writer, canned.status, canned.content, canned.headers, missing=canned.missing)
            await writer.drain()
            return not canned.missing
        if self.fault_rate and self._random.random() < self.fault_rate:
            fault = self.faults[(self.seed + sum(self.counts[name] for name in self.faults)) % len(self.faults)]
            self._count(fault)
            if fault == "429":
                self._send(writer, 429, {"error": {"message": "slow down"}}, "Retry-After: 0.05\r\n")
            elif fault == "500":
                self._send(writer, 500, {"error": {"message": "broken"}})
            elif fault == "time-out":
                await asyncio.sleep(self.hang)
                return False
            elif fault == "dropped":
                writer.transport.abort()
                return False
            else:
                self._send(writer, 200, self._reply(body), truncate=True)
            return True
        self._count("answered")
        self._send(writer, 200, self._reply(body))
        await writer.drain()
        return True

    def _count(self, how: str) -> None:
        self.counts[how] += 1
        if self.journal is not None:
            print(how, file=self.journal, flush=True)

    def _send(
        self,
        writer: asyncio.StreamWriter,
        status: int,
        value: Any,
        extra: str = "",
        truncate: bool = False,
        missing: int = 0,
    ) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        if truncate:
            content = content[: len(content) // 2]
        extra += "" if "Content-Type" in extra else "Content-Type: application/json\r\n"
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(content) + missing}\r\n{extra}\r\n"
        writer.write(head.encode() + content)

    def _reply(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.answer or by_hash
        choices = []
        for index in range(body.get("n", 1) if self.respect_n else 1):
            message = {"role": "assistant", "content": answer(body, index)}
            choices.append({"index": index, "message": message, "finish_reason": "stop", "logprobs": None})
        tokens = {"prompt_tokens": 100, "completion_tokens": 20 * len(choices), "total_tokens": 100 + 20 * len(choices)}
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "stub",
            "choices": choices,
            "usage": tokens,
        }


def text_of(body: dict[str, Any]) -> str:
    """Return the text of a request's chat."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def by_hash(body: dict[str, Any], index: int) -> str:
    """Return a trace whose words and option follow from the request's text and the sample's seed."""
    text = text_of(body)
    draw = int(hashlib.sha256(f"{text}/{(body.get('seed') or 0) + index}".encode()).hexdigest(), 16)
    options = [line[4:] for line in text.splitlines() if line[:1] == "(" and line[2:4] == ") "] or ["yes", "no"]
    return tagged_thought(f"I hear number {draw % 1000}.") + tagged_answer(options[draw % len(options)])


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--fault-rate", type=float, default=0.0)
    parser.add_argument("--hang", type=float, default=5.0, help="seconds that a request hangs that is to time out")
    parser.add_argument("--seed", type=int, default=0, help="decides which requests fail, and how the first does")
    parser.add_argument("--journal", action="store_true", help="print how each request was answered")
    options = vars(parser.parse_args())
    journal = sys.stdout if options.pop("journal") else None
    with StubEndpoint(**options, journal=journal) as stub:
        print(stub.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
