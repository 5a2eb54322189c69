"""Options and answers as words that can be compared: without articles and capitals, with numbers in digits."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from answers.answer_text import EAST_ASIAN, plain_signs
from answers.east_asian_numbers import numerals_in_digits
from answers.number_words import Word, holds, listed, numbers_in_digits, whole_number
from answers.synonyms import COUNTS, SYNONYMS

_DENIALS = (
    "而不是|不是|并非|並非|没有|沒有|不可能|不会|不會|不像|不对|不對|错误|錯誤|不选|不選"
    "|ではなく|ではない|ではありません|아니라|아닙니다"
)
"""What is one word for a negation, where each other Chinese character is one."""
_WORD = re.compile(
    rf"{_DENIALS}|[{EAST_ASIAN}]"
    r"|\d+(?:st|nd|rd|th)\b|(?<![\w.])\.\d+"
    r"|(?:(?<![^\s(\[=:><])[-])?(?:\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:[.:/]\d+)*)\+?"
    r"|(?:(?<![\w-])[A-G]-(?![\w\s])|[^\W\d_](?:[^\W_]|'(?=[^\W\d_]))*(?:#[^\W_]*)?(?:\+(?!\w))?)|[%&]"
)
_KEY = re.compile(
    r"(?<![\w'])([A-Ga-g])[ -](sharp|flat)\b"
    r"(?=\s*(?:$|[^\w\s'-]|-?\s*(?:major|minor|maj|min|chord|key|note|scale|and|or|in|is|to|then|at)\b))",
    re.IGNORECASE,
)
_MINOR = re.compile(r"(?<![\w'#])([A-G][#b]?)m(?![\w#]|'\w| I\b)")
_PHRASES = re.compile(r"\b(?:(half a dozen)|(no[ -]one|nobody))\b", re.IGNORECASE)
_ARTICLES = {"a", "an", "the"}
_KEYS = {"major", "minor", "maj", "min", "flat", "sharp", "dorian", "mixolydian", "lydian", "phrygian", "aeolian"}
_NO_NOUNS = frozenset(listed("and or nor but to is was are because since as would seems cannot can due given"))
_SAME = {"maj": "major", "min": "minor", "&": "and", "%": "percent", "okay": "ok", "tv": "television"}
_STANDING_LETTER = re.compile(r"(?<![\w.'-])[A-Z](?![\w.'#-])")
_PRONOUN_ONE_AFTER = {"no", "which", "this", "that", "the", "every", "any", "each", "another", "some", "2nd", "last"}
_PRONOUN_ONE_BEFORE = {
    "of",
    "moment",
    "another",
    "can",
    "could",
    "might",
    "would",
    "should",
    "hand",
    "point",
    "is",
    "on",
    "in",
}

FUNCTION_WORDS = frozenset(
    listed(
        "a an the of in on at to for from by with and or as is are was were be been being am i me my it its this that "
        "these those there here he she they them his her their we us our you your do does did has have had can could "
        "will would should may might must so if then than into onto over under out up down off about not no yes "
        "sound sounds audio clip recording option answer choice s t "
        "的 是 我 在 了 有 声 聲 音 频 頻 这 這 那 它 他 她 个 個 一 认 認 为 為 听 聽 到 像 能 会 會 の は が で す"
    )
)
"""Words that alone do not say which option is meant."""


@functools.lru_cache(maxsize=16384)
def words_of(text: str) -> tuple[Word, ...]:
    """Return the words of a text as they are compared.

    Args:
        text: The text, after :func:`plain`.
    """
    words, end = [], 0
    for match in _WORD.finditer(text):
        words.append(Word(_compared(match[0]), match[0], text[end : match.start()], match.start(), match.end()))
        end = match.end()
    return tuple(numbers_in_digits(numerals_in_digits(_without_articles(words))))


def plain(text: str) -> str:
    """Return a text with keys and some numbers in one form: "B flat minor" and "Bbm" are "Bb minor".

    Args:
        text: Any text.
    """
    text = _MINOR.sub(r"\1 minor", _KEY.sub(_accidental, plain_signs(text)))
    return _PHRASES.sub(lambda m: "six" if m[1] else "nobody", text).strip()


def _accidental(match: re.Match[str]) -> str:
    return match[1] + ("#" if match[2].lower() == "sharp" else "b")


def _compared(raw: str) -> str:
    """A word in the form in which it is compared."""
    if raw[0].isdigit() or raw[0] in "-.":
        return _number(raw)
    word = raw.casefold().replace("'", "")
    return _SAME.get(word, word)


def _number(raw: str) -> str:
    if not raw.lstrip("-").replace(",", "").replace(".", "").isdigit():
        return raw.casefold()
    sign, digits = raw[0] == "-", raw.lstrip("-").replace(",", "")
    if digits.count(".") == 1:
        digits = digits.rstrip("0").rstrip(".")
    whole, point, part = digits.partition(".")
    number = (whole.lstrip("0") or "0") + point + part
    return f"-{number}" if sign and number != "0" else number


def _without_articles(words: list[Word]) -> list[Word]:
    kept: list[Word] = []
    gap = ""
    for place, word in enumerate(words):
        after = words[place + 1] if place + 1 < len(words) else None
        if word.text in _ARTICLES and after and not after.gap.strip("\"' \t") and not _is_note(word, after):
            gap += word.gap
            continue
        kept.append(word._replace(gap=gap + word.gap) if gap else word)
        gap = ""
    return kept


def _is_note(word: Word, after: Word) -> bool:
    """Whether "A" is a note or a label, as in "A minor" or "A is right"."""
    if word.text != "a" or after.text in _KEYS:
        return word.text == "a"
    return word.raw == "A" and (after.text in _NO_NOUNS or not after.raw[0].isascii())


@dataclass(frozen=True)
class Option:
    """An option as it is looked for in answers.

    Attributes:
        text: The option's text in plain signs.
        words: Its words.
        others: Other words for it.
        letters: Capital letters that stand in it by themselves, such as the C of "C major".
    """

    text: str
    words: tuple[str, ...]
    others: tuple[tuple[str, ...], ...]
    letters: frozenset[str]


class Options(tuple[Option, ...]):
    """The options of a question.

    Attributes:
        counts: True where all options are whole numbers, or intervals such as "more than ten".
        spelt: Which option a text is, as it is and in lower case; None where several are.
        meaning: Which option words are, or None where several have the same.
        by_first_word: The keys of ``meaning`` by their first word, the longest first.
    """

    counts: bool
    spelt: dict[str, int | None]
    meaning: dict[tuple[str, ...], int | None]
    by_first_word: dict[str, list[tuple[str, ...]]]


@functools.lru_cache(maxsize=16384)
def options_of(texts: tuple[str, ...]) -> Options:
    """Return options as they are looked for.

    Args:
        texts: Their texts, in the order in which they are shown.
    """
    said = [plain(text) for text in texts]
    found = [tuple(word.text for word in words_of(text)) for text in said]
    counts = all(len(words) == 1 and (whole_number(words[0]) is not None or words[0][0] in "<>") for words in found)
    options = []
    for text, written, words in zip(said, texts, found, strict=True):
        others = SYNONYMS.get(" ".join(words), ()) + (COUNTS.get(words[0], ()) if counts and words else ())
        phrases = dict.fromkeys(tuple(word.text for word in words_of(other)) for other in others)
        letters = frozenset(
            m[0]
            for m in _STANDING_LETTER.finditer(written)
            if m[0] != "I" and not (m[0] == "A" and not _alone(written, m.end()))
        )
        options.append(Option(text, words, tuple(words for words in phrases if words not in found), letters))
    made = Options(options)
    made.counts = counts and bool(options)
    made.spelt, made.meaning = {}, {}
    for spelling in (str.casefold, str):  # what is spelt alike but for capitals is told apart by them
        alike: dict[str, int | None] = {}
        for index, option in enumerate(made):
            for name in {spelling(option.text), spelling(texts[index].strip())}:
                alike[name] = None if name in alike else index
        made.spelt |= alike
    for index, option in enumerate(made):
        for phrase in (option.words, *option.others):
            if phrase:
                made.meaning[phrase] = index if made.meaning.get(phrase, index) == index else None
    made.by_first_word = {}
    for phrase in sorted(made.meaning, key=len, reverse=True):
        made.by_first_word.setdefault(phrase[0], []).append(phrase)
    return made


def _alone(text: str, end: int) -> bool:
    """Whether the "A" that ends here is a letter and no article."""
    after = words_of(text[end:])
    return not after or bool(after[0].gap.strip()) or after[0].text in _KEYS


def interval_of(number: str, options: Options) -> int | None:
    """Return the option that is the only interval which contains a number.

    Args:
        number: The number as a word.
        options: The options.
    """
    value = whole_number(number)
    if value is None or not options.counts:
        return None
    found = [i for i, option in enumerate(options) if option.words[0][0] in "<>" and holds(option.words[0], value)]
    return found[0] if len(found) == 1 else None


def is_pronoun(words: Sequence[Word], place: int) -> bool:
    """Return whether "one" is no number here, as in "no one", "one of them", "which one"."""
    if words[place].raw.lower() != "one":
        return False
    before = words[place - 1].text if place and not words[place].gap.strip() else ""
    after = words[place + 1].text if place + 1 < len(words) and not words[place + 1].gap.strip() else ""
    return before in _PRONOUN_ONE_AFTER or after in _PRONOUN_ONE_BEFORE
