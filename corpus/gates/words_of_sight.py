"""The question is about what is heard: it does not speak of what is seen."""

import re

from records.records import Question

_SIGHT = re.compile(
    r"\b(?:videos?|frames?|images?|pictures?|photo(?:s|graphs?)?|pictured|screens?|footage|scenes? shown|shown|"
    r"see|sees|seen|seeing|watch(?:es|ed|ing)?|look(?:s|ed|ing)?|visible|visibly|visual(?:s|ly)?|"
    r"colou?rs?|colou?red|wear(?:s|ing)?|worn|camera|on-?screen|foreground|background of the (?:clip|shot)|"
    r"depicted|displayed|gestures?|silent)\b",
    re.IGNORECASE,
)
_HEARD = re.compile(r"\b(?:seems? to|sounds? like|off-?screen)\b", re.IGNORECASE)


def word_of_sight(question: Question) -> str:
    """Return which word of a question or its options speaks of sight, or nothing where none does.

    Args:
        question: The question.
    """
    for text in (question.text, *question.options):
        if found := _SIGHT.search(_HEARD.sub(" ", text)):
            return f"{found.group().casefold()!r} in {text!r}"
    return ""
