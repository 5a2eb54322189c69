"""Which question a completion wrote: read what can be read, and name what is wrong with the rest."""

import json
import re
from dataclasses import dataclass
from typing import Any

DISTRACTORS = 3
"""Wrong options beside the answer, as AVQA and MMAU have them."""

LONGEST = 300
"""Characters that a question or an option may have; what is longer is a lecture, not an option."""

_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)
_CONTROL = re.compile(r"<\|[^|<>]*\|>")


@dataclass(frozen=True)
class WrittenQuestion:
    """What was read of a completion.

    Attributes:
        text: The question, or empty.
        options: The answer, then the wrong options; empty where there is no question.
        fault: What is wrong, in a few words that are counted; empty where all is well.
    """

    text: str = ""
    options: tuple[str, ...] = ()
    fault: str = ""


def read_question(said: str, finished: bool = True) -> WrittenQuestion:
    """Read ``{"question": ..., "answer": ..., "others": [...]}`` from a completion.

    The object may stand in a code fence or among words. Nothing is guessed: an answer that must be inferred is none.

    Args:
        said: The completion, without thoughts.
        finished: False when it was cut at the token limit.
    """
    found = _object(said)
    if found is None:
        return WrittenQuestion(fault="no JSON object" if finished else "cut at the token limit")
    if "question" in found and found["question"] is None:
        return WrittenQuestion(fault="declined")
    for key in ("question", "answer", "others"):
        if key not in found:
            return WrittenQuestion(fault=f"no {key}")
    others = found["others"]
    texts = [found["question"], found["answer"], *(others if isinstance(others, list) else [None])]
    if not all(isinstance(text, str) for text in texts):
        return WrittenQuestion(fault="not text")
    if len(others) != DISTRACTORS:
        return WrittenQuestion(fault=f"not {DISTRACTORS} wrong options")
    texts = [" ".join(text.split()) for text in texts]
    if not all(texts):
        return WrittenQuestion(fault="empty text")
    if any(_CONTROL.search(text) for text in texts):
        return WrittenQuestion(fault="control token")
    if max(map(len, texts)) > LONGEST:
        return WrittenQuestion(fault=f"more than {LONGEST} characters")
    return WrittenQuestion(texts[0], tuple(texts[1:]))


def _object(said: str) -> dict[str, Any] | None:
    """Return the last JSON object of a text: what comes before it is thought aloud."""
    fenced = _FENCE.findall(said)
    text = fenced[-1] if fenced else said
    decoder = json.JSONDecoder()
    last: dict[str, Any] | None = None
    at = text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            last = value if isinstance(value, dict) else last
        at = text.find("{", end)
    return last
