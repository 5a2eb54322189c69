"""The words of a text that say something."""

import re

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_EMPTY = frozenset(
    re.split(
        r"\s+",
        """a an the this that these those is are was were be been being do does did has have had can could will would of
        in on at to from by for with and or not no it its as into than then there here what which who whom whose where
        when why how heard hear hears hearing sound sounds sounding audio clip one""",
    )
)


def content_words(text: str) -> frozenset[str]:
    """Return the words of a text that say something, in small letters and without the ``s`` of a plural.

    Args:
        text: The text.
    """
    words = (word.casefold() for word in _WORD.findall(text))
    return frozenset(_singular(word) for word in words if word not in _EMPTY)


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
