"""Which option did a completion choose? The one matcher that rewards, validation and benchmark tables share.

As the paper's evaluation says: the option letter where there is one, else the closest option text.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence

CLOSE_ENOUGH = 0.75
"""Least similarity (0 to 1) at which a misspelt answer still counts as an option."""

_ANSWER_OPEN = re.compile(r"<answer>", re.IGNORECASE)
_TAG = re.compile(r"</?(?:answer|think)>", re.IGNORECASE)
_LONE_BRACKETED_LETTER = re.compile(r"^(?:\(?([A-Za-z])\)|\[([A-Za-z])\])[.:]?$")
_BRACKETS = str.maketrans("【】「」", "[][]")
_LATEX = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_EMPHASIS = re.compile(r"\*+|`+|\$(?!\d)|(?<!\w)_+|_+(?!\w)")
_BARE_LETTER = re.compile(r"^\(?([A-Za-z])\s*[).:]*$")
_LEADING_LETTER = re.compile(r"^(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Z])\s*[).:](?=\s|$|\w))")
_LETTER_ON_ITS_OWN_LINE = re.compile(r"^\(?([A-Za-z])[).:]*[ \t]*\n")
_LAST_LETTER = re.compile(r"(?<![\w'])([A-Z])[.!]*$")
_OTHER_LETTERS = re.compile(r"(?<![\w'])[A-Z]\W+(?:and|or|nor|not|,|/)", re.IGNORECASE)
_SAID_LETTER = re.compile(
    r"\b(?:answer|option|choice)\b(?:\s+(?:is|would be|should be|must be))?\s*:?\s*(?:option\s+)?"
    r"(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Z])(?![\w']))",
    re.IGNORECASE,
)
_BRACKETED_LETTER = re.compile(r"\(([A-Z])\)")
_NUMBER_WORDS = dict(
    zip(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
        map(str, range(11)),
        strict=True,
    )
)


def extract_answer(completion: str) -> str:
    """Return the part of a completion that states the answer.

    The text inside the last ``<answer>`` tag, closed or not; without such a tag what follows the reasoning; else all.
    """
    text = unicodedata.normalize("NFKC", completion).translate(_BRACKETS)
    opened = list(_ANSWER_OPEN.finditer(text))
    if opened:
        text = text[opened[-1].end() :]
        text = re.split(r"</answer>", text, maxsplit=1, flags=re.IGNORECASE)[0]
    elif re.search(r"</think>", text, re.IGNORECASE):
        text = re.split(r"</think>", text, flags=re.IGNORECASE)[-1]
    return _without_markup(_TAG.sub(" ", text).strip())


def _without_markup(text: str) -> str:
    """Remove LaTeX's boxes and Markdown's emphasis around words."""
    while (inner := _LATEX.sub(r"\1", text)) != text:
        text = inner
    return _EMPHASIS.sub("", text).strip()


def match_option(completion: str, options: Sequence[str]) -> int | None:
    """Decide which option a completion chose.

    Args:
        completion: The raw completion, with or without tags.
        options: The options in the order in which they were shown; the first is "A".

    Returns:
        The option's index, or None where no careful reader could say.
    """
    answer = extract_answer(completion)
    stated = _stated(answer, options)
    if stated is not None:
        return stated
    closest = _closest(_plain(answer), [_plain(option) for option in options])
    if closest is None and (last := _LAST_LETTER.search(answer)) and not _OTHER_LETTERS.search(answer):
        index = ord(last[1]) - ord("A")
        return index if index < len(options) else None
    return closest


def answer_in_words(completion: str, options: Sequence[str]) -> str:
    """Return the answer for a judge who knows no option letters.

    Args:
        completion: The raw completion, with or without tags.
        options: The options in the order in which they were shown.

    Returns:
        The option's text where the answer is that text or states its letter, else the answer in its own words.
    """
    answer = extract_answer(completion)
    stated = _stated(answer, options)
    return answer if stated is None else options[stated]


def _stated(answer: str, options: Sequence[str]) -> int | None:
    """Index of the option whose letter or whole text the answer is or begins with."""
    # "(C)" is the letter even where an option's text is "C", a chord; "C" alone is the text then
    if lone := _LONE_BRACKETED_LETTER.match(answer):
        index = ord((lone[1] or lone[2]).upper()) - ord("A")
        if index < len(options):
            return index
    said = _plain(answer)
    exact = _unique(index for index, option in enumerate(options) if said and _plain(option) == said)
    return _letter(answer, len(options)) if exact is None else exact


def _letter(answer: str, count: int) -> int | None:
    """Index of the option letter that the answer states, if it states exactly one."""

    def stated(pattern: re.Pattern[str]) -> set[int]:
        letters = (next(filter(None, match.groups())).upper() for match in pattern.finditer(answer))
        return {index for letter in letters if (index := ord(letter) - ord("A")) < count}

    for pattern in (_BARE_LETTER, _LETTER_ON_ITS_OWN_LINE, _SAID_LETTER):
        if found := stated(pattern):
            return found.pop() if len(found) == 1 else None
    found = stated(_LEADING_LETTER) | stated(_BRACKETED_LETTER)
    return found.pop() if len(found) == 1 else None


def _closest(answer: str, options: Sequence[str]) -> int | None:
    """Index of the option whose text the answer names, or, if it names none, nearly spells."""
    if not answer:
        return None
    words = f" {answer} "
    named = []
    for index in sorted(range(len(options)), key=lambda i: -len(options[i])):  # longest first: they may contain others
        needle = f" {options[index]} "
        if options[index] and needle in words:
            named.append(index)
            words = words.replace(needle, " | ")
    if named:
        return named[0] if len(named) == 1 else None
    containing = [i for i, option in enumerate(options) if f" {answer} " in f" {option} "]
    if containing:
        return containing[0] if len(containing) == 1 else None
    scores = [difflib.SequenceMatcher(None, answer, option).ratio() for option in options]
    best = max(scores, default=0.0)
    if best < CLOSE_ENOUGH:
        return None
    return _unique(i for i, score in enumerate(scores) if score == best)


def _plain(text: str) -> str:
    """Lower-case words without punctuation, articles or a leading option letter; number words as digits."""
    text = unicodedata.normalize("NFKC", text).casefold()
    words = re.findall(r"\w+", text.replace("'", ""))
    if len(words) > 1:
        words = [word for word in words if word not in ("a", "an", "the")] or words
    return " ".join(_NUMBER_WORDS.get(word, word) for word in words)


def _unique(indices: Iterable[int]) -> int | None:
    found = list(indices)
    return found[0] if len(found) == 1 else None
