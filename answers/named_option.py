"""The option that an answer names somewhere in its text, where it neither refuses nor doubts."""

import re
from collections.abc import Iterable, Iterator, Sequence

from answers.number_words import Word
from answers.option_mentions import UNDECIDED, Mention, labels, letters, texts
from answers.option_words import Options, words_of
from answers.restated_options import outside, restated
from answers.scattered_words import scattered

SENTENCE_ENDS = re.compile(r"(?<!\d)\.(?=\s|$)|\.(?=\s+[A-Z]|\s*$)|[!?\n;]")
"""Where a sentence ends, but not in a number."""
_TURN = re.compile(r"[.!?\n;]|,?\s+(?:but|so)\b|\bhowever\b|但|不过|不過|所以")
_CONCEDES = re.compile(
    r"\b(?:while|although|though|even\s+(?:though|if)|despite)\b[^,.!?\n]{0,200},|(?:虽然|雖然|尽管)[^,.!?\n]{0,100},",
    re.IGNORECASE,
)
_NEGATIONS = frozenset({"not", "no", "without", "nor", "never"})
_CANNOT = r"(?:can(?:no|')?t|cannot|could not|couldn't"
_CLIP = r"(?:audios?|sounds?|videos?|clips?|files?|recordings?|music|it|anything|them)"
_REFUSES = re.compile(
    r"\b(?:sorry|apologi[sz]e|as an? (?:ai|language|text|virtual)"
    rf"|(?:no|any|without|the|an) (?:\w+ )?{_CLIP}(?: \w+){{0,3}} "
    r"(?:provided|attached|given|available|uploaded|included|shared|missing|received)"
    r"|(?:unable|not able|inability|possible for me|no way|impossible) to\b"
    rf"|{_CANNOT}|do(?: not|n't)) (?:\w+ ){{0,3}}?(?:listen|access|process|play|perceive|assist|help|analy[sz]e"
    rf"|hear (?:the |this |that |your |any )?{_CLIP})"
    r"|please (?:provide|upload|attach|share|send|describe))\b"
    r"|抱歉|对不起|對不起|[听聽]不[到出清]|(?:无法|無法|不能|没有|沒有|未)(?:直接)?(?:听|聽|收听|播放|处理|回答|提供|收到|访问)",
    re.IGNORECASE,
)
"""What says that there is no answer at all."""
_DOUBTS = re.compile(
    rf"\b(?:(?:nobody can|{_CANNOT}|not possible to|impossible to|no way to|hard to|difficult to"
    r"|not enough information to) (?:\w+ ){0,2}?"
    r"(?:hear|tell|determine|identify|answer|know|say|decide|confirm|distinguish|be determined))"
    r"|(?:not enough|insufficient) information|(?:do(?:n't| not)|doesn't|did not|didn't) know|no idea"
    r"|not (?:entirely |quite |really )?(?:sure|clear|certain)"
    r"|uncertain|unclear|could be (?:either|any)|whether|if (?:it|there|the|you|option))\b"
    r"|(?:无法|無法|不能|难以|難以|很难)(?:\w{0,2})(?:判断|判斷|确定|確定|分辨|辨别|区分|得知|知道)"
    r"|不知道|不清楚|不确定|不確定|是否|是不是|如果",
    re.IGNORECASE,
)
"""What says that the sentence, up to a "but", is no answer."""

_SUPPOSES = re.compile(r"\b(?:might|may|could|seems?|appears?|looks?|sounds? like)\b|可能", re.IGNORECASE)
"""What makes a concession say what is not so."""


def named_option(said: str, options: Options, claimed: bool = False) -> int | None:
    """Return the only option that a text names without denying it: by a label, else by its text, else by its letter.

    Args:
        said: The text.
        options: The options.
        claimed: The text is what somebody claims, so that doubts around it do not count.
    """
    words = words_of(said)
    labelled, named, lettered = labels(said, words, options), texts(words, options), letters(said, words, options)
    if (shown := restated(named, words, options)) is not None:
        after = [outside(mentions, shown) for mentions in (labelled, named, lettered)]
        if any(after):
            labelled, named, lettered = after
    doubted = [] if claimed else _doubted(said, words, named)
    labelled = _without(labelled, words, doubted)
    if (found := _only(labelled)) is not None:
        return found
    if not claimed and any(_own_words(_REFUSES, said, _places(named, words) + _concessions(said))):
        return UNDECIDED
    named = _without(named or scattered(words, options), words, doubted)
    found = _only(named)
    if found is None or all(mention.denied for mention in named):
        by_letter = _only(m for m in lettered if m.option not in {mention.option for mention in named})
        return found if by_letter is None else by_letter
    if found == UNDECIDED and not claimed:
        return _headline(named, words)
    return _more_exact(found, words, options)


def _doubted(said: str, words: Sequence[Word], named: Sequence[Mention]) -> list[tuple[int, int]]:
    """Where a text only wonders."""
    concessions = _concessions(said)
    found = []
    for doubt in _own_words(_DOUBTS, said, _places(named, words)):
        conceded = next((end for begin, end in concessions if begin <= doubt.start() < end), None)
        found.append((doubt.start(), _until(said, doubt.end()) if conceded is None else conceded))
    supposed = [place for place in concessions if _SUPPOSES.search(said, *place)]
    return found + supposed


def _concessions(said: str) -> list[tuple[int, int]]:
    """Where a text concedes something before it says what it says: "while it is impossible to know, ..."."""
    return [match.span() for match in _CONCEDES.finditer(said)]


def _places(mentions: Iterable[Mention], words: Sequence[Word]) -> list[tuple[int, int]]:
    return [(words[mention.first].start, words[mention.last].end) for mention in mentions]


def _without(mentions: Iterable[Mention], words: Sequence[Word], places: Sequence[tuple[int, int]]) -> list[Mention]:
    return [m for m in mentions if not any(begin <= words[m.first].start < end for begin, end in places)]


def _own_words(pattern: re.Pattern[str], said: str, options: Sequence[tuple[int, int]]) -> Iterator[re.Match[str]]:
    """Where a pattern matches, but for what an option says itself."""
    for match in pattern.finditer(said):
        if not any(begin <= match.start() and match.end() <= end for begin, end in options):
            yield match


def _until(said: str, place: int) -> int:
    """Where the sentence ends, or turns with "but"."""
    end = _TURN.search(said, place)
    return end.start() if end else len(said)


def _only(mentions: Iterable[Mention]) -> int | None:
    found = list(mentions)
    said = {m.option for m in found if not m.denied} - {m.option for m in found if m.denied}
    if not said:
        return UNDECIDED if found and all(m.denied for m in found) else None
    option = said.pop()
    return UNDECIDED if said or option is None else option


def _headline(named: Sequence[Mention], words: Sequence[Word]) -> int:
    """The option that is the whole first sentence, where no other is a sentence by itself."""

    def whole(mention: Mention) -> bool:
        before = words[mention.first].gap if mention.first else "."
        after = words[mention.last + 1] if mention.last + 1 < len(words) else None
        ends = (
            after is None
            or (bool(SENTENCE_ENDS.search(after.gap)) and "?" not in after.gap)
            or after.text in ("because", "since", "as")
        )
        return ends and (mention.first == 0 or bool(SENTENCE_ENDS.search(before)))

    sentences = {mention.option for mention in named if whole(mention)}
    first = named[0].option
    return first if named[0].first == 0 and first is not None and sentences == {first} else UNDECIDED


def _more_exact(found: int, words: Sequence[Word], options: Options) -> int:
    """The option that says more than the one found, where all its words are said: "the dog is barking"."""
    said = {word.text for word in words}
    if found == UNDECIDED or len(options[found].words) > 2 or said & _NEGATIONS:
        return found
    least = set(options[found].words)
    more = [i for i, option in enumerate(options) if least < set(option.words) and set(option.words) <= said]
    return found if not more else more[0] if len(more) == 1 else UNDECIDED
