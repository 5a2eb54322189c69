"""Replies in the ways that servers write them."""

import json
from typing import Any

import pytest

from inference.chat_api.chat_reply import Choice, parse_reply
from inference.chat_api.retries import ErrorReply, MalformedReply


def body(message: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop", **more}]}).encode()


def only(content: bytes) -> Choice:
    (choice,) = parse_reply(content).choices
    return choice


THOUGHT = {"type": "thinking", "thinking": "It barks."}


@pytest.mark.parametrize(
    "message",
    [
        {"content": [THOUGHT, {"type": "text", "text": "a "}, {"type": "text", "text": "dog"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "It barks."}]}, "a dog"]},
        {"content": [{"type": "reasoning", "text": "It barks."}, {"type": "output_text", "text": "a dog"}]},
        {"content": "a dog", "reasoning": "It barks."},
        {"content": "a dog", "reasoning_content": "It barks.", "reasoning": "It barks."},
        {"content": "a dog", "reasoning": {"summary": [{"type": "summary_text", "text": "It barks."}]}},
        {"content": {"type": "text", "text": "a dog"}, "reasoning_content": ["It ", "barks."]},
    ],
)
def test_parts_are_joined_and_thoughts_are_reasoning(message: dict[str, Any]) -> None:
    choice = only(body(message))
    assert (choice.text, choice.reasoning) == ("a dog", "It barks.")


def test_nothing_and_refusals() -> None:
    assert only(body({"content": None})) == Choice("")
    assert only(body({"content": None, "refusal": "I cannot."}, finish_reason=None)).refusal == "I cannot."
    assert only(body({}, finish_reason="length")).finish_reason == "length"


def test_halves_of_characters_become_one_that_can_be_written() -> None:
    message = b'{"choices":[{"message":{"content":"dog \\ud83d!","reasoning":"\\ud83d\\ude00 \\ude00"}}]}'
    choice = only(message)
    assert choice.text == "dog \ufffd!" and choice.reasoning == "\U0001f600 \ufffd"
    assert only(body({"content": "dog"}).replace(b"dog", b"do\xf0\x9f g")).text == "do\ufffd g"


def stream(*pieces: dict[str, Any], end: str = "data: [DONE]\n\n") -> bytes:
    return (": keep-alive\n\n" + "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces) + end).encode()


def piece(text: str | None = None, index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": text, **delta}, "finish_reason": finish}]}


def test_streams_are_put_together() -> None:
    reply = parse_reply(
        stream(
            {"choices": [], "prompt_filter_results": []},
            piece(role="assistant", reasoning_content="It "),
            piece("a ", reasoning_content="barks."),
            piece("cat", 1),
            piece("dog \ud83d"),
            piece("\ude00"),  # one emoji in two pieces
            piece(finish="stop"),
            piece(index=1, finish="length"),
            {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}},
        )
    )
    assert reply.choices == (Choice("a dog \U0001f600", "It barks."), Choice("cat", "", "length", index=1))
    assert (reply.prompt_tokens, reply.completion_tokens) == (7, 3)


def test_a_stream_that_breaks_off_is_no_reply() -> None:
    with pytest.raises(MalformedReply, match="before the reply was complete"):
        parse_reply(stream(piece("a dog"), end=""))
    with pytest.raises(MalformedReply, match="before the reply was complete"):
        parse_reply(stream(piece("a dog", finish="stop"), piece("a cat", 1), end=""))
    assert only(stream(piece("a dog", finish="stop"), end="")).text == "a dog"
    with pytest.raises(ErrorReply):
        parse_reply(stream(piece("a dog"), {"error": {"message": "overloaded"}}))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"<html>sign in</html>",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": 7}}]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"mess',
        b'{"a":' * 100_000,
        b"data: [1]\n\n",
    ],
)
def test_what_is_no_reply(content: bytes) -> None:
    with pytest.raises(MalformedReply):
        parse_reply(content)


def test_errors_in_the_place_of_a_reply() -> None:
    with pytest.raises(ErrorReply) as raised:
        parse_reply(b'{"error": {"code": 429, "message": "slow down"}}')
    assert raised.value.error["code"] == 429
    with pytest.raises(ErrorReply):
        parse_reply(body({"content": "half"}, finish_reason="error"))


def test_choices_without_a_number_keep_their_order() -> None:
    choices = [{"message": {"content": text}} for text in "abc"]
    assert [c.text for c in parse_reply(json.dumps({"choices": choices}).encode()).choices] == ["a", "b", "c"]
    numbered = [{**choice, "index": 0} for choice in choices]
    assert [c.index for c in parse_reply(json.dumps({"choices": numbered}).encode()).choices] == [0, 1, 2]


def test_candidates_without_a_value_are_left_out() -> None:
    top = [{"token": "yes", "logprob": -0.5}, {"token": "no", "logprob": None}, {"token": None, "logprob": -1}]
    choice = only(body({"content": "yes"}, logprobs={"content": [{"token": "yes", "top_logprobs": top}]}))
    assert choice.first_token == (("yes", -0.5),)
    assert only(body({"content": "yes"}, logprobs={"content": None})).first_token == ()
    nan = body({"content": "yes"}, logprobs={"content": [{"token": "yes", "logprob": float("nan")}]})
    assert only(nan).first_token == ()
