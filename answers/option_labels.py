"""Labels as answers have them: alone, before an option's text, or at the beginning of a sentence."""

import re
from collections.abc import Callable, Iterable

from answers.answer_text import EAST_ASIAN
from answers.option_mentions import UNDECIDED, denied, labels, texts
from answers.option_words import Options, words_of
from answers.restated_options import restated

_OPENING = r"^[\s\"'*]*"
_CALLED = r"(?:[Oo]ption|OPTION|[Cc]hoice|[Ll]etter)"
_IN_BRACKETS = r"[(\[{<]\s*([A-Za-z])\s*[)\]}>]"

_ALONE = re.compile(r"^[\s\"'(\[{<.,:;*-]*([A-Za-z])[\s\"')\]}>.,:;!?*-]*$")
BEFORE_TEXT = re.compile(
    rf"{_OPENING}(?:{_CALLED}\s+)?(?:{_IN_BRACKETS}[.:,]?|([A-Za-z])[\"']?\s*(?:[).:,;!]|\s-+\s|[–—]|\n))\s*"
)
"""A label and what parts it from the text after it."""
_CERTAIN = (
    re.compile(rf"{_OPENING}{_CALLED}?\s*{_IN_BRACKETS}"),
    re.compile(rf"{_OPENING}{_CALLED}\s*:?\s*([A-Z](?![\w'#+/-])|[a-z](?=[).:,]|\s*$))"),
)
"""What can be nothing but a label: "(B)", "option B"."""
_LIKELY = (
    re.compile(
        rf"{_OPENING}([A-Z])[\"']?(?=$|\n|[).:,;!?](?!\d)|\s+[-–—]+\s|\s+\(|\s*[{EAST_ASIAN}]"
        r"|\s+(?:because|since|as|is|due|which|would|seems|was|based|given)\b)"
    ),
    re.compile(rf"{_OPENING}([a-z])(?:[).:]|[\"']?\s*$)"),
)
"""What is a label unless an option begins with that letter: "B.", "B because"."""
_ANOTHER = re.compile(
    r"^[\s\"')\]}>.]*(?:\b(?:and|or|nor|und|oder|y|et|ou)\b|[,/&]|和|或|及|と)\s*(?:both\s+|option\s+)?"
    r"(?:[(\[{<]\s*[A-Za-z]\s*[)\]}>]|[\"']?(?-i:[A-Z])(?=\s*(?:$|[\"')\].,;:!?]|(?:and|or|are|both)\b)))",
    re.IGNORECASE,
)
_LISTED = re.compile(r"(?<!\w)[(\[]([A-Za-z])[)\]]|^\s*([A-Z])[).:]", re.MULTILINE)


def whole_answer(said: str, options: Options) -> int | None:
    """Return the option whose text or label, or label and text, the answer is.

    Brackets make a letter a label even where an option's text is that letter, a chord; else the text wins.

    Args:
        said: The answer.
        options: The options.
    """
    same = options.spelt.get(said)
    if same is None and not (len(said) == 1 and said.isupper()):
        same = options.spelt.get(said.casefold())
    if same is not None:
        return same
    if alone := _ALONE.match(said):
        if any(bracket in said for bracket in "()[]{}<>"):
            return index_of(alone[1], options)
        named = options.meaning.get((alone[1].casefold(),))
        if named is not None and not (options[named].text.islower() and alone[1].isupper()):
            return named
        return unless_a_note(alone[1], options)
    named = options.meaning.get(tuple(word.text for word in words_of(said)))
    if named is None and (labelled := BEFORE_TEXT.match(said)):
        index = index_of(labelled[1] or labelled[2], options)
        rest = said[labelled.end() :].strip()
        if index is not None and rest and options[index].words == tuple(word.text for word in words_of(rest)):
            return index
    return named


def certain_label(said: str, options: Options) -> int | None:
    """Return the option whose label the answer begins with, in brackets or after "option".

    Args:
        said: The answer.
        options: The options.
    """
    found = _beginning(said, options, _CERTAIN, index_of)
    return None if found is None or _repeats_all(said, options) else found


def first_label(said: str, options: Options) -> int | None:
    """Return the option whose label the answer begins with.

    Args:
        said: The answer.
        options: The options.
    """
    found = _beginning(said, options, _CERTAIN, index_of)
    if found is None and not _begins_with_note(said, options):
        found = _beginning(said, options, _LIKELY, unless_a_note)
    return None if found is None or _repeats_all(said, options) else found


def _beginning(
    said: str,
    options: Options,
    patterns: Iterable[re.Pattern[str]],
    meaning: Callable[[str, Options], int | None],
) -> int | None:
    for pattern in patterns:
        if label := pattern.match(said):
            words = words_of(said)
            place = next((place for place, word in enumerate(words) if word.start == label.start(1)), None)
            if place is None or denied(words, place, place):
                continue
            index = meaning(label[1], options)
            return UNDECIDED if index is not None and _ANOTHER.match(said[label.end() :]) else index
    return None


def _repeats_all(said: str, options: Options) -> bool:
    """Whether the answer repeats all options with their labels."""
    words = words_of(said)
    listed = {(match[1] or match[2]).upper() for match in _LISTED.finditer(said)}
    if len(listed) >= len(options) > 1 and not any(m.denied for m in labels(said, words, options)):
        return True
    return restated(texts(words, options), words, options) is not None


def _begins_with_note(said: str, options: Options) -> bool:
    """Whether the answer begins with an option's text that begins with a letter, such as "B: major"."""
    words = words_of(said)
    notes = {letter.lower() for option in options for letter in option.letters}
    return bool(words) and words[0].text in notes and any(m.first == 0 for m in texts(words[:8], options))


def unless_a_note(letter: str, options: Options) -> int | None:
    """Return the option of a letter without brackets; undecided where another option has that letter in its text.

    Args:
        letter: The letter.
        options: The options.
    """
    index = index_of(letter, options)
    others = (option for place, option in enumerate(options) if place != index)
    if any(letter.upper() in option.letters for option in others):
        return None if index is None else UNDECIDED
    return index


def index_of(letter: str, options: Options) -> int | None:
    """Return the option of a letter, or None where there are fewer.

    Args:
        letter: The letter.
        options: The options.
    """
    index = ord(letter.upper()) - ord("A")
    return index if index < len(options) else None
