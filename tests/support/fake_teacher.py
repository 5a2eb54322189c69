"""A teacher's server that checks what it is sent, records it, and makes up scores that depend on the frames."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoTokenizer

from benchmarks.fake_server import FakeServer

TOKENS_OF_A_PICTURE = 4


@dataclass
class FakeTeacher(FakeServer):
    """As FakeServer, for requests with pictures or without any media; use it in a ``with`` statement.

    Attributes:
        scored: Body of each request whose tokens were scored.
        blind: Whether its scores leave the pictures out.
        lost: Pictures of a chat that have no place in what it renders.
        unseen: Pictures of a request that its model is not shown.
        changed: Added to the first token of each prompt that it says it was shown.
    """

    scored: list[dict[str, Any]] = field(default_factory=list)
    blind: bool = False
    lost: int = 0
    unseen: int = 0
    changed: int = 0

    def __post_init__(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(self.checkpoint)
        self.picture = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")

    def answer(self, route: str, body: Any) -> tuple[int, Any]:
        """Render chats and score tokens here, answer the rest as any server."""
        wanted = (body or {}).get("sampling_params", {}).get("prompt_logprobs") is not None
        if route == "/v1/chat/completions/render":
            return 200, self._render(body["messages"])
        if route != "/inference/v1/generate" or not wanted:
            return super().answer(route, body)
        if failure := self.behave(route, body):
            return failure[0], {"error": {"message": failure[1]}}
        return 200, self._score(body)

    def _render(self, messages: list[dict[str, Any]]) -> Any:
        (message,) = messages
        kinds = {"image_url": "image"}
        content = [{**part, "type": kinds.get(part["type"], part["type"])} for part in message["content"]]
        chat = [{**message, "content": content}]
        ids = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        places = [{"offset": at} for at in range(ids.count(self.picture) - self.lost)]
        return {"token_ids": self._expanded(ids), "features": {"mm_placeholders": {"image": places}}}

    def _expanded(self, ids: list[int]) -> list[int]:
        return [token for one in ids for token in [one] * (TOKENS_OF_A_PICTURE if one == self.picture else 1)]

    def _score(self, body: Any) -> Any:
        parts = body.get("content_parts", [])
        assert all(part["type"] == "image_url" for part in parts), "it has no ears"
        assert body["token_ids"].count(self.picture) == len(parts), "a placeholder for each picture"
        with self.lock:
            self.scored.append(body)
        ids = self._expanded(body["token_ids"])
        seen = "" if self.blind else "".join(part["url"] for part in parts)
        drawn = {"index": 0, "token_ids": [7], "finish_reason": "length"}
        drawn |= {"logprobs": {"content": [{"token_id": 7, "logprob": -1.0}]}}
        drawn |= {"weight_versions": [{"version": self.version, "start": 0, "end": 1}]}
        rows = [{str(ids[at]): {"logprob": score(seen, ids[: at + 1])}} for at in range(1, len(ids))]
        return {
            "prompt_token_ids": [ids[0] + self.changed, *ids[1:]],
            "choices": [drawn],
            "mm_placeholders": {"image": [{"offset": at} for at in range(len(parts) - self.unseen)]},
            "prompt_logprobs": [None, *rows],
        }


def score(seen: str, ids: list[int]) -> float:
    """A made-up log-probability of the last of some tokens."""
    return -1.0 - hashlib.sha256(f"{seen}/{ids}".encode()).digest()[0] / 64
