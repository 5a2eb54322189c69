"""Which option did a completion choose? The one reader that rewards, validation and benchmark tables share.

As the paper's evaluation says: the option letter where there is one, else the closest option text. A completion is read
in three steps, each in a file of its own: what it states as its answer (``answer_text.py``), which words that are
(``option_words.py``), and which options they name or deny (``option_mentions.py``). Where a careful reader could not
say, there is no choice.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from lightning_modules.answer_text import extract_answer
from lightning_modules.closest_option import closest
from lightning_modules.number_words import Word
from lightning_modules.option_mentions import Mention, denied, labels, letters, texts
from lightning_modules.option_words import Options, options_of, plain, words_of

__all__ = ["answer_in_words", "extract_answer", "match_option"]

_UNDECIDED = -1
"""The answer names several options where it should name one."""

_NEGATIONS = frozenset({"not", "no", "without", "nor", "never"})
_LONGEST = 4000
"""Characters of an answer that are read."""
_CLAIMS = 8
"""How many claims are looked at, from the last one."""

_OPENING = r"^[\s\"'*]*"
_LABEL_ALONE = re.compile(r"^[\s\"'(\[{<.,:;*-]*([A-Za-z])[\s\"')\]}>.,:;!?*-]*$")
_LABEL_FIRST = re.compile(
    _OPENING
    + r"(?:[Oo]ption\s+|OPTION\s+|[Cc]hoice\s+)?(?:[(\[{<]\s*([A-Za-z])\s*[)\]}>][.:,]?|([A-Za-z])[\"']?\s*(?:[).:,;!]|\s-+\s|[–—]|\n))\s*"
)
_LABEL_IN_BRACKETS = re.compile(_OPENING + r"(?:[Oo]ption|OPTION|[Cc]hoice)?\s*[(\[{<]\s*([A-Za-z])\s*[)\]}>]")
_LABEL_CALLED = re.compile(_OPENING + r"(?:[Oo]ption|OPTION|[Cc]hoice|[Ll]etter)\s*:?\s*([A-Z])(?![\w'#+/-])")
_LABEL_BARE = re.compile(
    _OPENING
    + r"([A-Z])[\"']?(?=$|\n|[).:,;!?。](?!\d)|\s+[-–—]+\s|\s+\(|\s*[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
    + r"|\s+(?:because|since|as|is|due|which|would|seems|was|based|given)\b)"
)
_SMALL_LABEL_BARE = re.compile(_OPENING + r"([a-z])(?:[).:]|[\"']?\s*$)")
_ANOTHER_LABEL = re.compile(
    r"^[\s\"')\]}>.]*(?:\b(?:and|or|nor|und|oder|y|et|ou)\b|[,/&]|和|或|及|と|or)\s*(?:both\s+|option\s+)?"
    r"(?:[(\[{<]\s*[A-Za-z]\s*[)\]}>]|[\"']?[A-Z](?=\s*(?:$|[\"')\].,;:!?]|(?:and|or|are|both)\b)))",
    re.IGNORECASE,
)
_LISTED = re.compile(r"(?<!\w)[(\[]([A-Za-z])[)\]]|^\s*([A-Z])[).:]", re.MULTILINE)
_CUE = re.compile(
    r"\b(?:answers?|choice|option|selection|guess|response|conclusion|prediction)\b"
    r"(?:\s+(?:to|for|of)\s+(?:this|the|your|that)\s+\w+)?"
    r"(?:\s+(?:here|then|therefore|thus))?"
    r"\s*(?:(?:\b(?:is|was|are|be|(?:would|should|must|will|could|might|may|has to)\s+be|(?:seems|appears)(?:\s+to\s+be)?)\b"
    r"(?:\s+(?:most\s+|very\s+)?(?:likely|probably|possibly|clearly|definitely|indeed|therefore|thus|obviously|simply))?\s*(?:[:=]|-(?!\d))*)|[:=]|\n|-\s|–|—)\s*"
    r"|\b(?:choose|chose|choosing|pick|picked|select|selected|selecting|go(?:ing)?\s+with|went\s+with|opt(?:ing)?\s+for|settle\s+on|say|guess|vote\s+for)\b:?\s+"
    r"|\b(?:therefore|thus|hence|in\s+conclusion|in\s+summary|overall)\b\s*[,:]?\s*(?:(?:it|this|that)\s*(?:is|'s|must\s+be|would\s+be)\b\s*)?"
    r"|\b(?:respuesta|réponse|antwort|resposta|risposta|ответ|odpowiedź)\b[^.:;\n]{0,20}?(?:\b(?:es|est|ist|é|è|to)\b|[:—-])\s*"
    r"|(?:答案|选项|選項|应该选|應該選|应选|選択肢|选择|選擇|选|選|答え|正解|解答|정답|답)(?:应该是|应该|应为|应是|是|为|為|就是|选|は|が|은|는|이|:|\s)*",
    re.IGNORECASE,
)
_WRONG_CUE = re.compile(
    r"(?:\b(?:wrong|incorrect|false|other|another|not|no|never|n't|bad|whether|if)(?:\s+(?:the|an?|my))?|不)\s*$",
    re.IGNORECASE,
)
_TURN = re.compile(r"[.!?\n;]|,?\s+(?:but|so)\b|\bhowever\b")
_CONFIRMED = re.compile(
    r"(?<![\w'°#&.+/-])([A-Z])[\"')\]]?\s+(?:is|must\s+be|would\s+be)\s+(?:(?:the|most|likely|only|best|clearly)\s+)*"
    r"(?:answer|correct|right|choice|option)\b"
)
_SENTENCE_ENDS = re.compile(r"(?<!\d)\.(?=\s|$)|\.(?=\s+[A-Z]|\s*$)|[!?\n;]")

_AUDIO = r"(?:audios?|sounds?|videos?|clips?|files?|recordings?|music|it|anything|them)"
_REFUSES = re.compile(
    r"\b(?:sorry|apologi[sz]e|as an? (?:ai|language|text|virtual)|(?:no|any|without|the|an) (?:\w+ )?"
    + _AUDIO
    + r"(?: \w+){0,3} "
    r"(?:provided|attached|given|available|uploaded|included|shared|missing|received)"
    r"|(?:unable|not able|inability|possible for me|no way|impossible) to\b"
    r"|(?:can(?:no|')?t|cannot|could not|couldn't|do(?: not|n't)) (?:\w+ ){0,3}?(?:listen|access|process|play|perceive|assist|help|analy[sz]e"
    r"|hear (?:the |this |that |your |any )?" + _AUDIO + r")\b)",
    re.IGNORECASE,
)
_DOUBTS = re.compile(
    r"\b(?:nobody can|(?:can(?:no|')?t|cannot|could not|couldn't|not possible to|impossible to|no way to|hard to|difficult to|unable to|not enough information to) "
    r"(?:\w+ ){0,2}?(?:hear|tell|determine|identify|answer|know|say|decide|confirm|distinguish|be determined)"
    r"|(?:not enough|insufficient) information|(?:do(?:n't| not)|doesn't|did not|didn't) know|no idea|not (?:entirely |quite |really )?(?:sure|clear|certain)"
    r"|uncertain|unclear|could be (?:either|any)|whether|if (?:it|there|the|you))\b",
    re.IGNORECASE,
)


def match_option(completion: str, options: Sequence[str], finished: bool = True) -> int | None:
    """Decide which option a completion chose.

    Args:
        completion: The raw completion, with or without tags.
        options: The options in the order in which they were shown; the first is "A".
        finished: False when the completion was cut at the token limit: then only a closed ``<answer>`` counts.

    Returns:
        The option's index, or None where no careful reader could say.
    """
    said, known = _bounded(plain(extract_answer(completion, finished))), options_of(tuple(options))
    if not said or not known:
        return None
    readings: tuple[Callable[[str, Options], int | None], ...] = (_exact, _claimed, _first, _named, closest)
    for reading in readings:
        found = reading(said, known)
        if found is not None:
            return None if found == _UNDECIDED else found
    return None


def answer_in_words(completion: str, options: Sequence[str], finished: bool = True) -> str:
    """Return the answer for a judge who knows no option letters.

    Args:
        completion: The raw completion, with or without tags.
        options: The options in the order in which they were shown.
        finished: False when the completion was cut at the token limit.

    Returns:
        The option's text where the answer is that text or states its letter, else the answer in its own words.
    """
    answer = extract_answer(completion, finished)
    said, known = plain(answer), options_of(tuple(options))
    stated = _exact(said, known)
    if stated is None:
        words = words_of(said)
        named = {mention.option for mention in texts(words, known)}
        chosen = match_option(completion, options, finished)
        if chosen is not None and chosen not in named or _LABEL_FIRST.match(said):
            stated = chosen
    return answer if stated is None or stated == _UNDECIDED else options[stated]


def _bounded(said: str) -> str:
    """Beginning and end of what is far too long for an answer, so that reading takes no time."""
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST // 4]}\n{said[-3 * _LONGEST // 4 :]}"


def _exact(said: str, options: Options) -> int | None:
    """The answer is an option's text, or a label, or a label with an option's text."""
    same = options.spelt.get(said)
    if same is None and not (len(said) == 1 and said.isupper()):
        same = options.spelt.get(said.casefold())
    if same is not None:
        return same
    if alone := _LABEL_ALONE.match(said):
        named = options.meaning.get((alone[1].casefold(),))
        if named is not None and options[named].text.islower() and alone[1].isupper():
            named = None
        if any(bracket in said for bracket in "()[]{}<>"):
            return _index(alone[1], options)
        return named if named is not None else _letter(alone[1], options)
    if len(said) < 400 and (named := options.meaning.get(tuple(word.text for word in words_of(said)))) is not None:
        return named
    if labelled := _LABEL_FIRST.match(said):
        index = _index(labelled[1] or labelled[2], options)
        rest = said[labelled.end() :].strip()
        if index is not None and rest:
            text = options[index]
            if text.text.casefold() == rest.casefold().rstrip(".") or text.words == tuple(
                w.text for w in words_of(rest)
            ):
                return index
    return None


def _first(said: str, options: Options) -> int | None:
    """The answer begins with a label."""
    if _lists_all(said, options):
        return None
    for pattern in (_LABEL_IN_BRACKETS, _LABEL_CALLED):
        if label := pattern.match(said):
            words = words_of(said)
            place = next((p for p, word in enumerate(words) if word.start == label.start(1)), None)
            if place is not None and not denied(words, place, place):
                return _alone(_index(label[1].upper(), options), said[label.end() :])
    label = _LABEL_BARE.match(said) or _SMALL_LABEL_BARE.match(said)
    if label and not _is_note(said, options):
        words = words_of(said)
        if words and words[0].start == label.start(1) and not denied(words, 0, 0):
            return _alone(_letter(label[1], options), said[label.end() :])
    return None


def _lists_all(said: str, options: Options) -> bool:
    """Whether the answer repeats all options with their labels."""
    labelled = {(m[1] or m[2]).upper() for m in _LISTED.finditer(said)}
    return len(labelled) >= len(options) > 1 and not any(m.denied for m in labels(said, words_of(said), options))


def _is_note(said: str, options: Options) -> bool:
    """Whether the answer begins with an option's text that begins with a letter, such as "B: major"."""
    words = words_of(said)
    return any(
        m.first == 0
        for m in texts(words[:8], options)
        if words[0].text in {t.lower() for o in options for t in o.letters}
    )


def _alone(index: int | None, rest: str) -> int | None:
    return _UNDECIDED if index is not None and _ANOTHER_LABEL.match(rest) else index


def _claimed(said: str, options: Options) -> int | None:
    """The answer says which it is: "the answer is ...", "I choose ...", "答案是...". The last such claim counts."""
    for cue in list(_CUE.finditer(said))[: -_CLAIMS - 1 : -1]:
        if _WRONG_CUE.search(said, max(0, cue.start() - 20), cue.start()):
            continue
        found = _claim(said[cue.end() : cue.end() + _LONGEST // 4], options)
        if found is not None:
            return found
    confirmed = list(_CONFIRMED.finditer(said))
    return _letter(confirmed[-1][1], options) if confirmed else None


def _claim(said: str, options: Options) -> int | None:
    """The option that a claim names at its beginning, or else in its first sentence."""
    said = said.strip()
    if not said:
        return None
    if (found := _exact(said, options)) is not None:
        return found
    if label := _LABEL_IN_BRACKETS.match(said) or _LABEL_CALLED.match(said):
        return _alone(_index(label[1].upper(), options), said[label.end() :])
    words = words_of(said)
    named = texts(words, options)
    if named and named[0].first == 0 and not named[0].denied:
        return _UNDECIDED if _listed(named, words) else named[0].option
    if (found := _first(said, options)) is not None:
        return found
    end = _SENTENCE_ENDS.search(said)
    return _named(said[: end.start()] if end else said, options, doubts=False)


def _listed(named: Sequence[Mention], words: Sequence[Word]) -> bool:
    """Whether another option is named in one breath with the first: "a dog or a cat"."""
    if len(named) < 2 or named[1].option == named[0].option or named[1].denied:
        return False
    between = words[named[0].last + 1 : named[1].first]
    gap = words[named[1].first].gap.strip()
    if between:
        return (
            len(between) == 1
            and between[0].text in ("and", "or", "nor", "plus", "und", "oder")
            and gap in ("", '"', "'")
        )
    return gap in (",", "/", "&", "+", "|", "")


def _named(said: str, options: Options, doubts: bool = True) -> int | None:
    """The only option that the answer names without denying it: by its label, else by its text, else by its letter."""
    words = words_of(said)
    found = _only(labels(said, words, options))
    if found is not None:
        return found
    named = texts(words, options)
    if doubts:
        inside = [(words[m.first].start, words[m.last].end) for m in named]
        if any(_own_words(_REFUSES, said, inside)):
            return _UNDECIDED
        doubted = [(doubt.start(), _until(said, doubt.end())) for doubt in _own_words(_DOUBTS, said, inside)]
        named = [m for m in named if not any(begin <= words[m.first].start < end for begin, end in doubted)]
    found = _only(named)
    if found == _UNDECIDED and doubts:
        return _headline(named, words)
    return _only(letters(said, words, options)) if found is None else _more_exact(found, words, options)


def _more_exact(found: int, words: Sequence[Word], options: Options) -> int:
    """The option that says more than the one found, where all its words are said: "the dog is barking"."""
    said = {word.text for word in words}
    if found == _UNDECIDED or len(options[found].words) > 2 or said & _NEGATIONS:
        return found
    least = set(options[found].words)
    more = [i for i, option in enumerate(options) if least < set(option.words) and set(option.words) <= said]
    return found if not more else more[0] if len(more) == 1 else _UNDECIDED


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
        return _UNDECIDED if found and all(m.denied for m in found) else None
    option = said.pop()
    return _UNDECIDED if said or option is None else option


def _headline(named: Sequence[Mention], words: Sequence[Word]) -> int:
    """The option that is the whole first sentence, where no other is a sentence by itself."""

    def whole(mention: Mention) -> bool:
        before = words[mention.first].gap if mention.first else "."
        after = words[mention.last + 1] if mention.last + 1 < len(words) else None
        ends = (
            after is None
            or bool(_SENTENCE_ENDS.search(after.gap))
            and "?" not in after.gap
            or after.text in ("because", "since", "as")
        )
        return ends and (mention.first == 0 or bool(_SENTENCE_ENDS.search(before)))

    sentences = {mention.option for mention in named if whole(mention)}
    first = named[0].option
    return first if named[0].first == 0 and first is not None and sentences == {first} else _UNDECIDED


def _letter(letter: str, options: Options) -> int | None:
    """The option of a letter without brackets, unless another option has that letter in its text."""
    index = _index(letter, options)
    others = (option for place, option in enumerate(options) if place != index)
    if any(letter.upper() in option.letters for option in others):
        return None if index is None else _UNDECIDED
    return index


def _index(letter: str, options: Options) -> int | None:
    index = ord(letter.upper()) - ord("A")
    return index if index < len(options) else None
