"""The tags of thoughts and answers: how they are written, and how they are read where models write them otherwise.

Nothing else knows them as text but the prompts, which ask for them.
"""

import re
from typing import NamedTuple

THINK = "<think>"
"""Begins a thought; a prompt that asks for one has it."""

TAG_NAMES = "answer|think(?:ing)?"
"""What is inside of tags that are no part of an answer's text, as a regular expression."""

_NAMES = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?)"
_OPEN = re.compile(rf"<\s*{_NAMES}\s*>", re.IGNORECASE)
_CLOSE = re.compile(rf"<\s*/\s*{_NAMES}\s*>", re.IGNORECASE)
_ANSWER = re.compile(r"<\s*answer\s*>", re.IGNORECASE)
_TAGS = re.compile(rf"(?<![ \t])[ \t]*(?:<\s*(?:/\s*)?(?:{_NAMES}|answer)\s*(?:/\s*)?>[ \t]*)+", re.IGNORECASE)

_THOUGHT = re.compile(r"<\s*think(?:ing)?\s*>.*?<\s*/\s*think(?:ing)?\s*>", re.IGNORECASE | re.DOTALL)
_THOUGHT_BEGINS = re.compile(r"<\s*think(?:ing)?\s*>", re.IGNORECASE)
_THOUGHT_ENDS = re.compile(r"<\s*/\s*think(?:ing)?\s*>", re.IGNORECASE)
_ANSWER_TAG = re.compile(r"<\s*(?:(/)\s*)?(?:final[ _-]?)?answer\s*>", re.IGNORECASE)
_CLOSED = re.compile(r"<answer>([^<]*(?:<(?!/?answer>)[^<]*)*)</answer>")
_OPENED = re.compile(r"<answer>([^<]*(?:<(?!/?answer>)[^<]*)*)")

_EXACT = re.compile(r"\s*<think>(.+?)</think>\s*<answer>(.+?)</answer>\s*", re.DOTALL)
_EXACT_TAG = re.compile(r"<\s*(?:/\s*)?(?:think|answer)\s*>", re.IGNORECASE)
_INSIDE_ANSWER = re.compile(r"<\s*answer\s*>(.*?)(?:<\s*/\s*answer\s*>|$)", re.IGNORECASE | re.DOTALL)
_SHOWN = re.compile(r"<think>(.*?)(?:</think>|<answer>|$)", re.IGNORECASE | re.DOTALL)


def tagged_thought(text: str) -> str:
    """Return a thought as a completion writes it."""
    return f"<think>{text}</think>"


def tagged_answer(text: str) -> str:
    """Return an answer as a completion writes it."""
    return f"<answer>{text}</answer>"


def exact_parts(completion: str) -> tuple[str, str] | None:
    """Return thought and answer of a completion that is ``<think>...</think><answer>...</answer>`` and nothing else.

    Args:
        completion: The completion.

    Returns:
        None where it is anything else, has nothing in one of them, or a tag twice.
    """
    found = _EXACT.fullmatch(completion)
    if found is None or any(not part.strip() or _EXACT_TAG.search(part) for part in found.groups()):
        return None
    return found[1], found[2]


def answer_places(completion: str) -> list[tuple[int, int]]:
    """Return where the text inside of each ``<answer>`` begins and ends; an open one goes to the completion's end.

    Args:
        completion: The completion.
    """
    return [found.span(1) for found in _INSIDE_ANSWER.finditer(completion)]


def shown_thoughts(completion: str) -> str:
    """Return the thoughts of a completion for a person to read, a line each; empty where it has none.

    Args:
        completion: The completion.
    """
    return "\n".join(part.strip() for part in _SHOWN.findall(completion))


def stated(completion: str, finished: bool = True) -> str:
    """Return what is inside the last closed ``<answer>``, or follows an open one, or follows the reasoning.

    Args:
        completion: The completion.
        finished: False when it was cut at the token limit: then only a closed ``<answer>`` counts, and none that is
            followed by more in thoughts that never end.
    """
    text = _ANSWER_TAG.sub(r"<\1answer>", completion)
    if not finished and _goes_on_thinking(text):
        return ""
    ended = _THOUGHT_ENDS.search(text)
    after = _THOUGHT_ENDS.split(_THOUGHT.sub(" ", text))[-1] if ended else text  # the prompt may have opened it
    for part in (after, text):  # an answer inside of the reasoning counts where nothing comes after that
        for answers in (_CLOSED.findall(part), _OPENED.findall(part) if finished else []):
            if said := [inner for inner in answers if inner.strip()]:
                return said[-1]
        if "<answer>" in part:
            return ""
        if finished and (rest := _THOUGHT_BEGINS.split(part)[0]).strip():
            return rest
    return ""


def _goes_on_thinking(text: str) -> bool:
    """Whether a text that was cut ends in thoughts: an answer in them is one that they only try, unless it is the end.

    Args:
        text: The completion.
    """
    begun = list(_THOUGHT_BEGINS.finditer(text))
    if not begun or _THOUGHT_ENDS.search(text, begun[-1].end()):
        return False
    return bool(text.rpartition("</answer>")[2].strip())


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
