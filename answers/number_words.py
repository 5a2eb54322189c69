"""Numbers in words and comparisons with them, brought to one form: "more than ten", "over 10" and ">10" are ``>10``."""

from collections.abc import Sequence
from typing import NamedTuple


def listed(words: str) -> tuple[str, ...]:
    """Return the words of a list that is written as one text."""
    return tuple(words.split())


_SMALL = {
    word: value
    for value, word in enumerate(
        listed(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen"
        )
    )
}
_TENS = {
    word: 10 * tens for tens, word in enumerate(listed("twenty thirty forty fifty sixty seventy eighty ninety"), 2)
}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_PARTS = _SMALL.keys() | _TENS.keys() | _SCALES.keys() | {"hundred", "dozen"}
_ORDINALS = {
    word: f"{value}{('', 'st', 'nd', 'rd')[value] if value < 4 else 'th'}"
    for value, word in enumerate(
        listed("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"), 1
    )
}
_BEFORE: dict[tuple[str, ...], str] = {
    ("no", "less", "than"): ">=",
    ("no", "fewer", "than"): ">=",
    ("at", "least"): ">=",
    ("at", "most"): "<=",
    ("up", "to"): "<=",
    **{(word, "than"): ">" for word in ("more", "greater", "higher", "larger")},
    **{(word, "than"): "<" for word in ("less", "fewer", "lower", "smaller")},
    **{(word,): ">" for word in ("over", "above", "exceeding")},
    **{(word,): "<" for word in ("under", "below")},
}
"""What may stand before a number, and what it means."""
_AFTER = {"more": ">=", "above": ">=", "higher": ">=", "less": "<=", "fewer": "<=", "below": "<="}
"""What may stand after a number and "or"."""
_MINUS = ("minus", "negative")
_SIGNS = {">": ">", "<": "<", ">=": ">=", "<=": "<=", "≥": ">=", "≤": "<="}
_COMPARE = {word for phrase in _BEFORE for word in phrase} | {"or"}


class Word(NamedTuple):
    """A word of a text.

    Attributes:
        text: The word as it is compared.
        raw: The word as it stands in the text.
        gap: What stands between it and the word before.
        start: Where it begins in the text.
        end: Where it ends in the text.
    """

    text: str
    raw: str
    gap: str
    start: int
    end: int

    def through(self, last: "Word", text: str) -> "Word":
        """Return one word for this one and all through ``last``."""
        raw = self.raw if last is self else f"{self.raw} {last.raw}"
        return Word(text, raw, self.gap, self.start, last.end)


def numbers_in_digits(words: Sequence[Word]) -> list[Word]:
    """Write numbers, ordinals and comparisons with numbers as digits and signs.

    Args:
        words: The words of a text, in lower case.

    Returns:
        The words, each phrase such as "twenty-one", "one hundred and five" or "at least three" as one of them.
    """
    written, place = [], 0
    while place < len(words):
        word = words[place]
        if word.text in _PARTS:
            value, after = _cardinal(words, place)
            written.append(word.through(words[after - 1], str(value)))
            place = after
        else:
            written.append(word._replace(text=_ORDINALS[word.text]) if word.text in _ORDINALS else word)
            place += 1
    return _with_comparisons(_with_signs(written))


def _with_signs(words: list[Word]) -> list[Word]:
    """Join "minus" or "negative" and a number."""
    if not any(word.text in _MINUS for word in words):
        return words
    written: list[Word] = []
    for word in words:
        if written and written[-1].text in _MINUS and word.text[0].isdigit() and not word.gap.strip():
            written.append(written.pop().through(word, f"-{word.text}"))
        else:
            written.append(word)
    return written


def _cardinal(words: Sequence[Word], begin: int) -> tuple[int, int]:
    """Value of the number in words that begins here, and the place after it."""
    total, group, room = 0, 0, 10**12  # the next part must be smaller than `room`
    place = begin
    while place < len(words):
        text, gap, fresh = words[place].text, words[place].gap.strip(" \u00a0"), place == begin
        if not fresh and gap not in ("", "-") and not (gap == "," and words[place - 1].text in _SCALES):
            break
        if text in _SMALL and _SMALL[text] < room and (fresh or text != "zero"):
            group, room = group + _SMALL[text], 0
        elif text in _TENS and _TENS[text] < room:
            group, room = group + _TENS[text], 10
        elif text == "hundred" and (fresh or 0 < group < 100):
            group, room = (group or 1) * 100, 100
        elif text in _SCALES and (fresh or group):
            total, group, room = total + (group or 1) * _SCALES[text], 0, _SCALES[text]
        elif text == "dozen" and (fresh or group):
            group, room = (group or 1) * 12, 0
        elif not (text == "and" and room >= 100 and not fresh and _goes_on(words, place + 1, room)):
            break
        place += 1
    return total + group, place


def _goes_on(words: Sequence[Word], place: int, room: int) -> bool:
    if place == len(words) or words[place].gap.strip():
        return False
    return (_SMALL.get(words[place].text) or _TENS.get(words[place].text) or room) < room


def _with_comparisons(words: Sequence[Word]) -> list[Word]:
    """Join each number with what compares something with it."""
    if not any(word.text in _COMPARE or word.text[-1] == "+" or word.gap.strip() in _SIGNS for word in words):
        return list(words)
    written: list[Word] = []
    place = 0
    while place < len(words):
        word, after = words[place], place + 1
        number = whole_number(word.text.removesuffix("+"))
        if number is None:
            written.append(word)
            place = after
            continue
        sign = _SIGNS.get(word.gap.strip(), ">=" if word.text[-1] == "+" else None)
        first = word
        for length in (3, 2, 1):
            phrase = tuple(w.text for w in written[-length:])
            if not word.gap.strip() and len(phrase) == length and phrase in _BEFORE:
                sign, first = _BEFORE[phrase], written[-length]
                del written[-length:]
                break
        else:
            if after + 1 < len(words) and words[after].text == "or" and words[after + 1].text in _AFTER:
                sign, after = _AFTER[words[after + 1].text], after + 2
        written.append(word if sign is None else first.through(words[after - 1], _interval(sign, number)))
        place = after
    return written


def whole_number(text: str) -> int | None:
    """Return the number that a word is, or None where it is none that could be meant."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _interval(sign: str, number: int) -> str:
    """One form of comparisons of whole numbers: ">= 11" is ">10"."""
    return {">=": f">{number - 1}", "<=": f"<{number + 1}"}.get(sign, f"{sign}{number}")


def holds(interval: str, number: int) -> bool:
    """Return whether a word such as ``>10`` is an interval that contains the number."""
    bound = whole_number(interval[1:])
    return bound is not None and ((interval[0] == ">" and number > bound) or (interval[0] == "<" and number < bound))
