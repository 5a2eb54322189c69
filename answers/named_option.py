"""The option that an answer names somewhere in its text, where it neither refuses nor doubts."""

import re
from collections.abc import Iterable, Iterator, Sequence

from answers.number_words import Word
from answers.option_mentions import UNDECIDED, Mention, labels, letters, texts
from answers.option_words import Options, words_of

SENTENCE_ENDS = re.compile(r"(?<!\d)\.(?=\s|$)|\.(?=\s+[A-Z]|\s*$)|[!?\n;]")
"""Where a sentence ends, but not in a number."""
_TURN = re.compile(r"[.!?\n;]|,?\s+(?:but|so)\b|\bhowever\b")
_NEGATIONS = frozenset({"not", "no", "without", "nor", "never"})
_CANNOT = r"(?:can(?:no|')?t|cannot|could not|couldn't"
_CLIP = r"(?:audios?|sounds?|videos?|clips?|files?|recordings?|music|it|anything|them)"
_REFUSES = re.compile(
    r"\b(?:sorry|apologi[sz]e|as an? (?:ai|language|text|virtual)"
    rf"|(?:no|any|without|the|an) (?:\w+ )?{_CLIP}(?: \w+){{0,3}} "
    r"(?:provided|attached|given|available|uploaded|included|shared|missing|received)"
    r"|(?:unable|not able|inability|possible for me|no way|impossible) to\b"
    rf"|{_CANNOT}|do(?: not|n't)) (?:\w+ ){{0,3}}?(?:listen|access|process|play|perceive|assist|help|analy[sz]e"
    rf"|hear (?:the |this |that |your |any )?{_CLIP})\b)",
    re.IGNORECASE,
)
"""What says that there is no answer at all."""
_DOUBTS = re.compile(
    rf"\b(?:(?:nobody can|{_CANNOT}|not possible to|impossible to|no way to|hard to|difficult to"
    r"|not enough information to) (?:\w+ ){0,2}?"
    r"(?:hear|tell|determine|identify|answer|know|say|decide|confirm|distinguish|be determined))"
    r"|(?:not enough|insufficient) information|(?:do(?:n't| not)|doesn't|did not|didn't) know|no idea"
    r"|not (?:entirely |quite |really )?(?:sure|clear|certain)"
    r"|uncertain|unclear|could be (?:either|any)|whether|if (?:it|there|the|you))\b",
    re.IGNORECASE,
)
"""What says that the sentence, up to a "but", is no answer."""


def named_option(said: str, options: Options, claimed: bool = False) -> int | None:
    """Return the only option that a text names without denying it: by a label, else by its text, else by its letter.

    Args:
        said: The text.
        options: The options.
        claimed: The text is what somebody claims, so that doubts around it do not count.
    """
    words = words_of(said)
    found = _only(labels(said, words, options))
    if found is not None:
        return found
    named = texts(words, options)
    if not claimed:
        inside = [(words[m.first].start, words[m.last].end) for m in named]
        if any(_own_words(_REFUSES, said, inside)):
            return UNDECIDED
        doubted = [(doubt.start(), _until(said, doubt.end())) for doubt in _own_words(_DOUBTS, said, inside)]
        named = [m for m in named if not any(begin <= words[m.first].start < end for begin, end in doubted)]
    found = _only(named)
    if found == UNDECIDED and not claimed and named:
        return _headline(named, words)
    return _only(letters(said, words, options)) if found is None else _more_exact(found, words, options)


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
