"""Thoughts and answers in a completion, told apart by their tags."""

import re
from typing import NamedTuple

_NAMES = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?)"
_OPEN = re.compile(rf"<\s*{_NAMES}\s*>", re.IGNORECASE)
_CLOSE = re.compile(rf"<\s*/\s*{_NAMES}\s*>", re.IGNORECASE)
_ANSWER = re.compile(r"<\s*answer\s*>", re.IGNORECASE)
_TAGS = re.compile(rf"(?<![ \t])[ \t]*(?:<\s*(?:/\s*)?(?:{_NAMES}|answer)\s*(?:/\s*)?>[ \t]*)+", re.IGNORECASE)


class Parts(NamedTuple):
    """A completion in its parts.

    Attributes:
        reasoning: The thoughts, or what precedes the answer where there are none; without tags.
        said: What follows the thoughts, with the answer's tags.
    """

    reasoning: str
    said: str


def without_tags(text: str) -> str:
    """Return a reasoning without the tags of thoughts and answers, wherever they are.

    Args:
        text: The reasoning.
    """
    return _TAGS.sub(" ", text).strip()


def split_thought(text: str) -> Parts:
    """Tell the thoughts of a completion from what is said after them.

    Thoughts need not be opened by a tag (models whose prompt opens it write the closing tag alone), and need not be
    closed. An answer tag that thoughts only speak of is no answer.

    Args:
        text: The completion.
    """
    answer = next(reversed(list(_ANSWER.finditer(text))), None)
    ends = list(_CLOSE.finditer(text))
    before = [end for end in ends if answer is None or end.start() < answer.start()]
    if not before and ends and text[ends[-1].end() :].strip():  # "<think>I close with <answer>.</think>(B)"
        answer, before = None, ends
    begun = _OPEN.search(text)
    if before:
        opened = begun.end() if begun and begun.start() < before[-1].start() else 0
        preamble, thought, said = text[:opened], text[opened : before[-1].start()], text[before[-1].end() :]
    elif begun and (answer is None or begun.start() < answer.start()):
        end = len(text) if answer is None else answer.start()
        preamble, thought, said = text[: begun.end()], text[begun.end() : end], text[end:]
    else:
        preamble, thought, said = "", "", text
    before_answer = _ANSWER.split(said, maxsplit=1)[0]
    reasoning = next(filter(None, map(without_tags, (thought, before_answer, preamble))), "")
    return Parts(reasoning, said)
