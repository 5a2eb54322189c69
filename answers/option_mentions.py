"""Where an answer names options, by label or by text, and whether it says so of them or denies it."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from answers.number_words import Word, listed
from answers.option_words import Options, interval_of, is_pronoun

UNDECIDED = -1
"""The answer names several options where it should name one, or denies all that it names."""

_BRACKETED = re.compile(r"(?<!\w)[(\[{<]\s*([A-Za-z])\s*[)\]}>](?!\w)")
_CALLED = re.compile(
    r"\b(?:[Oo]ption|OPTION|[Cc]hoice|CHOICE|[Ll]etter|[Aa]nswer|ANSWER)\s*[:#]?\s*[\"']?([A-Z])(?![\w'#+/-])[\"']?"
    r"(?=\s*(?:$|[^\w\s]|(?:is|was|as|because|since|and|or|nor|but|does|do|can|cannot|could|would|seems|fits|matches"
    r"|describes|mentions|says|suggests|are|which|due|has|best)\b))"
)
_LETTER = re.compile(r"(?<![\w'°#&.+/-])([A-Z])(?![\w'#+/-]|\.\w)")
_NAME = re.compile(
    r"\b(?:plan|vitamin|hepatitis|gate|seat|platform|group|type|grade|class|section|room|exit|hall|note|chord|string"
    r"|team|channel|terminal|building|block|flat|level)\s$",
    re.IGNORECASE,
)
"""What a letter after it is a name of, and no label."""
_CAPITAL_A_BEFORE = re.compile(r"\s*(?:$|[^\w\s]|(?:or|and|nor|but|is|because|since|as)\b)")

_BREAK = re.compile(r"[.;:!?\n,]|\s--?\s|[–—]")
_BUT = {"but", "however", "because", "since", "so", "therefore", "although", "though", "while", "whereas", "rather"}
_NOT = frozenset(
    listed(
        "not never neither nor without non no cannot cant dont doesnt didnt isnt arent wasnt werent wont wouldnt "
        "couldnt shouldnt hasnt havent except excluding exclude excludes eliminate eliminates eliminating rejecting "
        "reject unlike 不是 不选 不選 并非 並非 而不是 没有 沒有 没 不可能 不会 不會 不像"
    )
)
_NOT_PAIRS = {
    *(("rather", "than"), ("instead", "of"), ("other", "than"), ("opposed", "to")),
    *((rule, "out") for rule in ("rule", "ruled", "ruling")),
    *((wrong, noun) for wrong in ("wrong", "incorrect", "false") for noun in ("answer", "option", "choice")),
}
_NO_DOUBT = {"doubt", "question", "wonder", "mistake", "mistaking", "problem"}
_WRONG = frozenset(
    listed(
        "wrong incorrect false unlikely ruled eliminated excluded absent missing inaudible irrelevant implausible "
        "inconsistent impossible inaccurate inappropriate improbable unsupported 错 错误 錯誤 不对 不對"
    )
)
_DENIED = frozenset(
    listed(
        "not isnt arent wasnt werent doesnt dont didnt cant cannot couldnt wont wouldnt never "
        "不是 不对 不會 不会 ではなく ではない ではありません 아니라 아닙니다"
    )
)
_AFTER_REPLY = frozenset(
    listed("there it its i they the this that he she we you because since as not im ive theres thats this these those")
)
_CLAUSE = 30
"""Words that a negation may stand before what it denies, where nothing ends the clause."""
_UNITS = frozenset(
    listed("second seconds sec secs s minute minutes min major minor hz khz bpm db percent ms hour hours 2nd")
)


class Mention(NamedTuple):
    """An option that is named.

    Attributes:
        option: Its index; None where several have this text.
        first: Place of the first word.
        last: Place of the last word.
        denied: Whether it is said not to be the answer.
    """

    option: int | None
    first: int
    last: int
    denied: bool


def labels(text: str, words: Sequence[Word], options: Options) -> list[Mention]:
    """Return where a text has labels that cannot be anything else: "(B)", "option B".

    Args:
        text: The text.
        words: Its words.
        options: The options.
    """
    found = [*_BRACKETED.finditer(text), *_CALLED.finditer(text)]
    return _denied_together(_at_words(((m[1].upper(), m.start(1)) for m in found), words, options), words)


def letters(text: str, words: Sequence[Word], options: Options) -> list[Mention]:
    """Return where capital letters stand by themselves that can be labels; none where options have such letters.

    Args:
        text: The text.
        words: Its words.
        options: The options.
    """
    if any(option.letters for option in options):
        return []
    found = (
        (m[1], m.start(1))
        for m in _LETTER.finditer(text)
        if m[1] != "I"
        and (m[1] != "A" or _CAPITAL_A_BEFORE.match(text, m.end()))
        and not _NAME.search(text, 0, m.start())
    )
    return _denied_together(_at_words(found, words, options), words)


def _at_words(found: Iterable[tuple[str, int]], words: Sequence[Word], options: Options) -> list[Mention]:
    places = {word.start: place for place, word in enumerate(words)}
    return [
        Mention(index, places[start], places[start], denied(words, places[start], places[start]))
        for letter, start in found
        if (index := ord(letter) - ord("A")) < len(options) and start in places
    ]


def _denied_together(mentions: Iterable[Mention], words: Sequence[Word]) -> list[Mention]:
    """Deny all that is listed with what is denied: "A, C and D are ruled out"."""
    found = sorted(mentions, key=lambda mention: mention.first)
    for place in range(len(found) - 2, -1, -1):
        after = found[place + 1]
        between = [word.text for word in words[found[place].last + 1 : after.first]]
        gap = words[after.first].gap.strip(" ([{")
        if (
            after.denied
            and gap in ("", ",", "/", "&")
            and all(text in ("and", "or", "nor", "option") for text in between)
        ):
            found[place] = found[place]._replace(denied=True)
    return found


def texts(words: Sequence[Word], options: Options) -> list[Mention]:
    """Return where options are named by their texts, as whole words, the longest where several begin alike.

    Args:
        words: The words of a text.
        options: The options.
    """
    found = []
    place = 0
    while place < len(words):
        last, option = _phrase_at(words, place, options)
        if last >= place:
            reply = last == place and words[place].text in ("yes", "no")  # "No, there isn't" denies nothing
            found.append(Mention(option, place, last, denied(words, place, last, before_only=reply)))
        place = max(place, last) + 1
    return found


def _phrase_at(words: Sequence[Word], place: int, options: Options) -> tuple[int, int | None]:
    """Last place and option of the longest phrase that begins here; a place before where none does."""
    for phrase in options.by_first_word.get(words[place].text, ()):
        last = place + len(phrase) - 1
        said = last < len(words) and all(words[place + i].text == part for i, part in enumerate(phrase))
        if said and (len(phrase) > 1 or _is_meant(words, place, options)):
            return last, options.meaning[phrase]
    index = interval_of(words[place].text, options)
    return (place - 1, None) if index is None or not _is_meant(words, place, options) else (place, index)


def _is_meant(words: Sequence[Word], place: int, options: Options) -> bool:
    """Whether a word that is an option stands for it here."""
    word = words[place]
    after = words[place + 1] if place + 1 < len(words) else None
    if word.text == "no" and after is not None:  # an answer, not as in "no sound"
        return bool(after.gap.strip()) or after.text in _AFTER_REPLY
    if len(word.text) == 1 and word.text.isalpha() and word.text.isascii():  # a note, and not that of another key
        return word.raw.isupper() and not (after is not None and after.text in ("minor", "flat", "sharp"))
    if word.text == "right" and after is not None and after.text in ("answer", "option", "choice"):
        return False
    if options.counts and after is not None and not after.gap.strip(" -") and after.text in _UNITS:
        return False
    return not is_pronoun(words, place)


def denied(words: Sequence[Word], first: int, last: int, before_only: bool = False) -> bool:
    """Return whether the clause says that it is not what these words name.

    Args:
        words: The words of a text.
        first: Place of the first word that names something.
        last: Place of the last one.
        before_only: Look only at what stands before them.
    """
    for place in range(first - 1, max(first - _CLAUSE, 0) - 1, -1):
        after = words[place + 1] if place + 1 < len(words) else None
        if (after and _BREAK.search(after.gap)) or (words[place].text in _BUT and not (after and after.text == "than")):
            break
        then = after.text if after else ""
        if (words[place].text, then) in _NOT_PAIRS:
            return True
        if words[place].text in _NOT and then not in _NO_DOUBT and (words[place].text, then) != ("not", "only"):
            return True
    for place in range(last + 1, last + 1 if before_only else min(last + 7, len(words))):
        if _BREAK.search(words[place].gap) or "(" in words[place].gap or words[place].text in _BUT:
            break
        if words[place].text == "and" and place + 1 < len(words) and words[place + 1].text == "not":
            break  # what comes now is what is denied
        if words[place].text in _WRONG:
            return True
        if words[place].text in _DENIED and place <= last + 3:
            return True
    return False
