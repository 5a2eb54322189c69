"""What a completion states as its answer: the text inside ``<answer>``, a box or a JSON field, without markup."""

import re
import unicodedata

from records.reasoning_tags import TAG_NAMES, stated

_STRAY_TAG = re.compile(rf"</?(?:{TAG_NAMES}|br|option|choice|output|response)\s*/?>|<\|[\w.-]*\|>", re.IGNORECASE)
_PAIR_OF_TAGS = re.compile(r"<(b|i|u|p|em|strong|span|div|code|pre|mark)>(.{0,4000}?)</\1>", re.IGNORECASE | re.DOTALL)

_JSON_FIELD = re.compile(
    r"""["'](?:final[ _]?|correct[ _]?|selected[ _]?)?(?:answer|choice|option|prediction)"""
    r"""(?:[ _](?:text|letter|option))?["']\s*:\s*[\[{]?\s*"""
    r"""(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|(-?\d+(?:\.\d+)?|true|false))(?!\s*:)""",
    re.IGNORECASE,
)
_NESTED = 6
"""How deep LaTeX's commands may lie, and how many boxes are looked at."""
_BOX = re.compile(r"\\f?boxed\s*(?=\{)|\\fbox\s*(?=\{)")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\[a-zA-Z]+\s*\{([^{}]*)\}")
_MATH = re.compile(r"\\[()\[\]]|\$\$|\$(?!\d)")
_ESCAPED = re.compile(r"\\([#%&_$*])")
_BLANK_COMMAND = re.compile(r"\\(?:[,;:!> ]|quad|qquad|n|\\)")
_SIGNS = {r"^\sharp": "#", r"^\flat": "b", r"\sharp": "#", r"\flat": "b", r"\times": "x", r"\circ": ""}
_EMPHASIS = re.compile(r"\*+|`+|(?<!\w)_+|_+(?!\w)")
_STRUCK = re.compile(r"~~.*?~~")
_LINE_MARK = re.compile(r"^[ \t]*(?:#{1,6}[ \t]+|>[ \t]*(?![ \t]*\d)|[-•‣·][ \t]+)", re.MULTILINE)
EAST_ASIAN = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Characters of scripts that put no space between words, or endings at them, as part of a regular expression."""
_SCRIPTS = re.compile(rf"(?<=[{EAST_ASIAN}])(?=[A-Za-z0-9])|(?<=[A-Za-z0-9])(?=[{EAST_ASIAN}])")
_OTHER_SIGNS = str.maketrans(
    {
        "【": "[", "】": "]", "「": "[", "」": "]", "『": "[", "』": "]", "〔": "[", "〕": "]", "〈": "<", "〉": ">",
        "。": ". ", "、": ", ", "，": ", ", "｡": ". ", "؟": "? ", "،": ", ",
        "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‘": "'", "’": "'", "‚": "'",
        "−": "-", "‐": "-", "‑": "-", "♯": "#", "♭": "b",
        "\u200b": None, "\u200c": None, "\u200d": None, "\u2060": None, "\ufeff": None, "\u00ad": None,
    }
)  # fmt: skip


def extract_answer(completion: str, finished: bool = True) -> str:
    r"""Return the part of a completion that states the answer, without markup.

    What is inside the last closed ``<answer>`` decides; without one what follows an ``<answer>`` that was not closed;
    without any what follows the reasoning. In that, a ``\boxed{...}`` or the field "answer" of JSON decides.

    Reasoning states nothing: where ``<think>`` was opened and neither ``</think>`` nor ``<answer>`` follows, there is
    no answer. Nor is there one in a completion that was cut at the token limit before ``</answer>``.

    Args:
        completion: The raw completion, with or without tags.
        finished: False when it was cut at the token limit.
    """
    return without_markup(_decisive(stated(plain_signs(completion), finished)))


def plain_signs(text: str) -> str:
    """Return a text with one sign for each meaning: full-width letters, brackets, quotes, dashes and the like."""
    if text.isascii():
        return text
    return _SCRIPTS.sub(" ", unicodedata.normalize("NFKC", text.translate(_OTHER_SIGNS)))


def _decisive(text: str) -> str:
    """What is inside the last box or the last JSON field "answer", else all."""
    if "\\" in text and (boxed := _boxed(text)):
        return boxed
    fields = [next(filter(None, found), "") for found in _JSON_FIELD.findall(text)] if ":" in text else []
    return fields[-1] if fields and fields[-1].strip() else text


def _boxed(text: str) -> str:
    """What is inside the last box that is closed and not empty."""
    for start in [match.end() for match in _BOX.finditer(text)][: -_NESTED - 1 : -1]:
        depth = 0
        for place in range(start, len(text)):
            depth += (text[place] == "{") - (text[place] == "}")
            if depth == 0:
                if text[start + 1 : place].strip():
                    return text[start + 1 : place]
                break
    return ""


def without_markup(text: str) -> str:
    """Return a text without tags, LaTeX and Markdown."""
    if "<" in text:
        text = _STRAY_TAG.sub(" ", _PAIR_OF_TAGS.sub(r"\2", text) if "</" in text else text)
    if "\\" in text:
        for sign, plain in _SIGNS.items():
            text = text.replace(sign, plain)
        text = _MATH.sub(" ", _FRACTION.sub(r"\1/\2", text))
        for _ in range(_NESTED):
            text = _COMMAND.sub(r"\1", text)
        text = _BLANK_COMMAND.sub(" ", _ESCAPED.sub(r"\1", text))
    elif "$" in text:
        text = _MATH.sub(" ", text)
    if "~~" in text:
        text = _STRUCK.sub(" ", text)
    return _EMPHASIS.sub("", _LINE_MARK.sub("", text)).replace("_", " ").strip()
