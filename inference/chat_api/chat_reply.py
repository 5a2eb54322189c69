"""Reading what an endpoint answered: a chat completion in one piece or as a stream."""

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from inference.chat_api.retries import ErrorReply, Failure, MalformedReply, failure_of
from records.valid_text import valid_text

_STREAM_LINES = (b"data:", b"event:", b"id:", b"retry:", b":")
_THOUGHTS = frozenset({"thinking", "reasoning", "thought", "reasoning_content", "summary_text", "reasoning_text"})


@dataclass(frozen=True)
class Choice:
    """One of a reply's completions.

    Attributes:
        text: What was said.
        reasoning: What servers with a reasoning parser return separately.
        finish_reason: Why it ended: ``stop``, ``length``, ``content_filter``, ...
        first_token: The first token's candidates and their log-probabilities where they were asked for and given.
        refusal: Why nothing was said, in the model's words, where it says that separately.
        index: Which of the completions that were asked for.
        failure: Why there is none in this place, where others of the same reply are as they should be.
    """

    text: str
    reasoning: str = ""
    finish_reason: str = "stop"
    first_token: tuple[tuple[str, float], ...] = ()
    refusal: str = ""
    index: int = 0
    failure: Failure | None = None


@dataclass(frozen=True)
class Reply:
    """What an endpoint answered to one request.

    Attributes:
        choices: The completions, by their index.
        prompt_tokens: Tokens of the request, or None where the endpoint does not say.
        completion_tokens: Tokens of all completions together, or None.
    """

    choices: tuple[Choice, ...]
    prompt_tokens: int | None
    completion_tokens: int | None


def parse_reply(content: bytes, *secrets: str) -> Reply:
    """Read an endpoint's answer.

    Of several completions those that came are kept when others are errors: they are paid for.

    Args:
        content: The response's body: JSON, or the lines of a stream.
        *secrets: Strings that must not be in what is said of a completion that failed.

    Raises:
        ErrorReply: It is an error in the place of a chat completion, or all its completions are.
        MalformedReply: It is neither.
    """
    said = content.strip()
    try:
        body = _assembled(said) if said.startswith(_STREAM_LINES) else json.loads(_text(said), strict=False)
    except (ValueError, RecursionError, AttributeError, TypeError):
        what = "a web page" if said[:1] == b"<" else "not JSON"
        raise MalformedReply(f"the reply is {what}", said, page=said[:1] == b"<") from None
    try:
        if body.get("error") and not body.get("choices"):
            raise ErrorReply(body["error"])
        found = [_choice_or_error(choice, place) for place, choice in enumerate(body["choices"])]
        if not found:
            raise MalformedReply("the reply has no choices", said)
        errors = [one for one in found if isinstance(one, Exception)]
        if len(errors) == len(found):
            raise errors[0]
        choices = [
            Choice("", index=_index(body["choices"][place], place), failure=_failure(one, secrets))
            if isinstance(one, Exception)
            else one
            for place, one in enumerate(found)
        ]
        if len({choice.index for choice in choices}) < len(choices):
            choices = [dataclasses.replace(choice, index=place) for place, choice in enumerate(choices)]
        usage = body.get("usage") or {}
        return Reply(
            tuple(sorted(choices, key=lambda choice: choice.index)),
            _count(usage.get("prompt_tokens")),
            _count(usage.get("completion_tokens")),
        )
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError):
        raise MalformedReply("the reply is not a chat completion", said) from None


def _text(content: bytes) -> str:
    return content.decode("utf-8-sig", "replace")


def _count(value: Any) -> int | None:
    whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 and math.isfinite(value)
    return int(value) if whole else None


def _choice_or_error(choice: Any, place: int) -> Choice | Exception:
    try:
        return _choice(choice, place)
    except (ErrorReply, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        return error


def _failure(error: Exception, secrets: tuple[str, ...]) -> Failure:
    """Return why a completion failed, of which nobody but the endpoint knows whether it would fail again."""
    failure = failure_of(error, *secrets) if isinstance(error, ErrorReply) else None
    if failure is None:
        return Failure("malformed reply", "retry", "one of the completions is none")
    # what concerned all requests would not have spared the others of this one
    return failure if failure.action == "record" else dataclasses.replace(failure, action="retry")


def _index(choice: Any, place: int) -> int:
    index = choice.get("index") if isinstance(choice, dict) else None
    return index if isinstance(index, int) else place


def _choice(choice: dict[str, Any], place: int) -> Choice:
    if choice.get("error") or choice.get("finish_reason") == "error":
        raise ErrorReply(choice.get("error") or "the completion ended with an error")
    message = choice["message"]
    content = list(_parts(message.get("content")))
    thoughts = [words for thinks, words in content if thinks]
    for name in ("reasoning_content", "reasoning"):
        if not thoughts:
            thoughts = [words for _, words in _parts(message.get(name))]
    return Choice(
        text=valid_text("".join(words for thinks, words in content if not thinks)),
        reasoning=valid_text("".join(thoughts)),
        finish_reason=valid_text(str(choice.get("finish_reason") or "stop")),
        first_token=_first_token(choice.get("logprobs")),
        refusal=valid_text(str(message.get("refusal") or "")),
        index=_index(choice, place),
    )


def _parts(content: Any, thinks: bool = False) -> Iterator[tuple[bool, str]]:
    """Yield the texts of a content, which may be one or a list of parts, each with whether it is thought or said."""
    if content is None:
        return
    if isinstance(content, str):
        yield thinks, content
    elif isinstance(content, list):
        for part in content:
            yield from _parts(part, thinks)
    elif isinstance(content, dict):
        thinks = thinks or content.get("type") in _THOUGHTS
        for name in ("text", "thinking", "reasoning", "summary", "content"):
            if content.get(name):
                yield from _parts(content[name], thinks)
                break
    else:
        raise TypeError(f"a content that is {type(content).__name__}")


def _first_token(logprobs: Any) -> tuple[tuple[str, float], ...]:
    """Return the first token's candidates; those without a token or a log-probability are left out."""
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], dict):
        return ()
    candidates = []
    for one in tokens[0].get("top_logprobs") or [tokens[0]]:
        token, value = one.get("token"), one.get("logprob")
        if isinstance(token, str) and isinstance(value, (int, float)) and not math.isnan(value):
            candidates.append((valid_text(token), min(float(value), 0.0)))
    return tuple(candidates)


def _assembled(content: bytes) -> dict[str, Any]:
    """Return the chat completion that the pieces of a stream make up.

    Raises:
        MalformedReply: The stream ended too early.
        ValueError: A piece is not JSON.
    """
    pieces: dict[int, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    ends: dict[int, str] = {}
    usage: Any = None
    done = False
    for line in content.splitlines():
        name, _, data = line.partition(b":")
        if name.strip() != b"data":
            continue
        if data.strip() == b"[DONE]":
            done = True
            continue
        piece = json.loads(_text(data), strict=False)
        if piece.get("error"):
            return {"error": piece["error"]}
        usage = piece.get("usage") or usage
        for choice in piece.get("choices") or ():
            place = choice.get("index") or 0
            for field, value in (choice.get("delta") or choice.get("message") or {}).items():
                if value:
                    pieces[place][field].append(value)
            pieces[place]["logprobs"] += (choice.get("logprobs") or {}).get("content") or ()
            if choice.get("finish_reason"):
                ends[place] = choice["finish_reason"]
    if not pieces or not (done or ends) or (not done and set(ends) != set(pieces)):
        raise MalformedReply("the stream ended before the reply was complete", content)
    choices = []
    for place, fields in pieces.items():
        logprobs = {"content": fields.pop("logprobs", [])}
        message = {**fields, "refusal": "".join(str(words) for words in fields.get("refusal", ()))}
        choices.append({"index": place, "message": message, "finish_reason": ends.get(place), "logprobs": logprobs})
    return {"choices": choices, "usage": usage}
