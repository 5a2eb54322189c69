"""What an answer says once, and what it says last: repetitions and corrections."""

import re

_LONGEST_UNIT = 40
"""Words of the longest repetition that is looked for."""
_ENDS = ".,;:!?。，；！？"

_TAKES_BACK = re.compile(
    "|".join(
        (
            r"\bwait\b(?=\s*(?:[,.!:;…—-]|no\b))[\s,.!:;…—-]*(?:no\b[\s,.!:;…—-]*(?=\w))?",
            r"\bon\s+second\s+thoughts?\b",
            r"\b(?:correction|scratch\s+that|strike\s+that|my\s+mistake|my\s+bad|i\s+misspoke)\b\s*[:,.!;—-]",
            r"\blet\s+me\s+(?:correct|revise|rephrase)\b(?:\s+(?:myself|that|this|my\s+\w+|the\s+\w+))?",
            r"\bno,?\s+(?:sorry|actually|rather)\b|\bsorry,\s+(?:i\s+mean|it)|\bi\s+mean\b",
            r"(?<=[.!?…\n;])\s*(?:no,\s+)?actually\b,?\s+"
            r"(?=(?:it|that|this)(?:'s|\s+is|\s+was)\b|the\s+(?:\w+\s+)?answer\b|no\b|i\b|option\b|\(?(?-i:[A-Z])\b)",
            # "I first thought that it was a dog, but it is a cat"
            r"\bi\s+(?:\w+\s+){0,2}?(?:thought|guessed|counted|assumed|believed)\b"
            r"[^.!?\n]{0,100}?\bbut\b(?:\s+on\s+second\s+thoughts?)?",
            r"(?<=[\s.,;])(?:不对|不對|等等|等一下|更正|纠正一下|抱歉)\s*[,:.!…]",
        )
    ),
    re.IGNORECASE,
)

_ADDS = re.compile(r"\b(?:also|too|as\s+well|additionally)\b|也|还有", re.IGNORECASE)
"""What takes nothing back, but says more."""


def once(said: str) -> str:
    """Return a text that repeats itself, word for word, one time; any other as it is.

    Args:
        said: The text.
    """
    words = said.split()
    if words and len(words[0]) == 1 and words[0].islower():  # "a a a" is no label said three times
        return said
    bare = [word.strip(_ENDS).casefold() for word in words]
    for length in range(1, min(len(words) // 2, _LONGEST_UNIT) + 1):
        if all(word == bare[place % length] for place, word in enumerate(bare)):
            return " ".join(words[:length])
    return said


def corrected(said: str) -> str:
    """Return what follows the last place where a text takes back what it said before; empty where there is none.

    Args:
        said: The text.
    """
    places = [match.end() for match in _TAKES_BACK.finditer(said)]
    last = said[places[-1] :].strip() if places else ""
    return "" if _ADDS.search(last) else last
