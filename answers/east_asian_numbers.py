"""Chinese and Japanese numerals as digits, where they count something or stand alone."""

from collections.abc import Sequence

from answers.number_words import Word

_DIGITS = {"零": 0, "〇": 0, "两": 2, "兩": 2} | {digit: value for value, digit in enumerate("一二三四五六七八九", 1)}
_UNITS = {"十": 10, "百": 100}
_COUNTERS = frozenset("个個位名人种種次声聲下段首件台只隻秒分点點回度倍岁歲号號")
"""What may stand after a number: three people, three times."""
_LONGEST = 6
"""Signs of the longest number that is read."""
_NO_NUMBER_BEFORE = frozenset("第统統唯单單专專万同")


def numerals_in_digits(words: Sequence[Word]) -> list[Word]:
    """Write numerals as digits, as in "三个人" or "十二", but not where they are part of a word, as in "一共".

    Args:
        words: The words of a text, each Chinese character one of them.
    """
    written: list[Word] = []
    place = 0
    while place < len(words):
        end = place
        while end < len(words) and _is_numeral(words[end].text) and (end == place or not words[end].gap):
            end += 1
        alone = end == len(words) or bool(words[end].gap) or words[end].text in _COUNTERS
        joined = place > 0 and not words[place].gap and words[place - 1].text in _NO_NUMBER_BEFORE
        if 0 < end - place <= _LONGEST and alone and not joined:
            value = _value("".join(word.text for word in words[place:end]))
            written.append(words[place].through(words[end - 1], str(value)))
            place = end
        else:
            end = max(end, place + 1)
            written.extend(words[place:end])
            place = end
    return written


def _is_numeral(text: str) -> bool:
    return text in _DIGITS or text in _UNITS


def _value(numeral: str) -> int:
    """The number that a numeral below a thousand is."""
    total, digit = 0, None
    for sign in numeral:
        if sign in _UNITS:
            total, digit = total + (1 if digit is None else digit) * _UNITS[sign], None
        else:
            digit = _DIGITS[sign] if digit is None else 10 * digit + _DIGITS[sign]
    return total + (digit or 0)
