"""Which option did a completion choose? The one reader that rewards, validation and benchmark tables share.

As the paper's evaluation says: the option letter where there is one, else the closest option text. A completion is
read in steps, each in a file of its own: what it states as its answer (``answer_text.py``), which words that are
(``option_words.py``, ``word_forms.py``, ``number_words.py``, ``east_asian_numbers.py``), what it takes back or
repeats (``corrections.py``, ``restated_options.py``), whether it is or begins with a label (``option_labels.py``),
which options it names or denies (``option_mentions.py``, ``scattered_words.py``, ``named_option.py``), and which one
is nearest (``closest_option.py``).
Where a careful reader could not say, there is no choice.
"""

import re
from collections.abc import Callable, Sequence

from answers.answer_text import extract_answer
from answers.closest_option import closest_option
from answers.corrections import corrected, once
from answers.named_option import SENTENCE_ENDS, named_option
from answers.number_words import Word
from answers.option_labels import BEFORE_TEXT, certain_label, first_label, unless_a_note, whole_answer
from answers.option_mentions import UNDECIDED, Mention, labels, letters, texts
from answers.option_words import Options, options_of, plain, words_of

__all__ = ["answer_in_words", "extract_answer", "match_option"]

_LONGEST = 4000
"""Characters of an answer that are read."""
_CLAIMS = 8
"""How many claims are looked at, from the last one."""

_CUE = re.compile(
    "|".join(
        (
            # "the answer is", "my guess would be most likely", "option:"
            r"\b(?:answers?|choice|option|selection|guess|response|conclusion|prediction)\b"
            r"(?:\s+(?:to|for|of)\s+(?:this|the|your|that)\s+\w+)?(?:\s+(?:here|then|therefore|thus))?\s*"
            r"(?:(?:\b(?:is|was|are|be|(?:would|should|must|will|could|might|may|has to)\s+be"
            r"|(?:seems|appears)(?:\s+to\s+be)?)\b"
            r"(?:\s+(?:most\s+|very\s+)?"
            r"(?:likely|probably|possibly|clearly|definitely|indeed|therefore|thus|obviously|simply))?"
            r"\s*(?:[:=]|-(?!\d))*)|[:=]|\n|-\s|–|—)\s*",
            # "I choose", "I'd go with"
            r"\b(?:choos(?:e|ing)|chose|pick(?:ed)?|select(?:ed|ing)?|go(?:ing)?\s+with|went\s+with|opt(?:ing)?\s+for"
            r"|settle\s+on|say|guess|vote\s+for)\b:?\s+",
            # "therefore, it is"
            r"\b(?:therefore|thus|hence|in\s+conclusion|in\s+summary|overall)\b\s*[,:]?\s*"
            r"(?:(?:it|this|that)\s*(?:is|'s|must\s+be|would\s+be)\b\s*)?",
            # "that leaves", ", leaving"
            r"(?:\b(?:that|this|which|only)\s+leaves\b(?:\s+(?:us\s+with|only|just)\b)?"
            r"|,\s*leaving\b(?:\s+(?:us\s+with|only|just)\b|(?=\s+(?:option\b|[(\[]?(?-i:[A-Z])\b))))\s*",
            r"\b(?:respuesta|réponse|antwort|resposta|risposta|ответ|odpowiedź)\b[^.:;\n]{0,20}?"
            r"(?:\b(?:es|est|ist|é|è|to)\b|[:—-])\s*",
            r"(?:答案|选项|選項|应该选|應該選|应选|選択肢|选择|選擇|选|選|答え|正解|解答|정답|답)"
            r"(?:应该是|应该|应为|应是|是|为|為|就是|选|は|が|은|는|이|:|\s)*",
        )
    ),
    re.IGNORECASE,
)
"""What stands before a claimed answer."""
_WRONG_CUE = re.compile(
    r"(?:\b(?:wrong|incorrect|false|other|another|not|no|never|n't|bad|whether|if)(?:\s+(?:the|an?|my))?|不)\s*$",
    re.IGNORECASE,
)
_WONDERS = re.compile(r"(?:whether|if|which|what|who|where|how)\b", re.IGNORECASE)
"""What follows "I can say" where nothing is said."""
_CONFIRMED = re.compile(
    r"(?<!\bor )(?<!\band )(?<!\bnor )"
    r"(?<![\w'°#&.+/-])([A-Z])[\"')\]]?\s+(?:is|must\s+be|would\s+be)\s+(?:(?:the|most|likely|only|best|clearly)\s+)*"
    r"(?:answer|correct|right|choice|option)\b"
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
    found = whole_answer(said, known)
    if found is None:
        found = _read(once(said), known)
    return None if found == UNDECIDED else found


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
    stated = whole_answer(said, known)
    if stated is None:
        words = words_of(said)
        chosen = match_option(completion, options, finished)
        named = {mention.option for mention in texts(words, known)}
        lettered = {mention.option for mention in (*labels(said, words, known), *letters(said, words, known))}
        if BEFORE_TEXT.match(said) or (chosen in lettered and chosen not in named):
            stated = chosen
    return answer if stated is None or stated == UNDECIDED else options[stated]


def _read(said: str, options: Options) -> int | None:
    """The option that an answer names after it took something back, or else the one that all of it names."""
    if (last := corrected(said)) and (found := _read_as_it_is(last, options)) is not None:
        return found
    return _read_as_it_is(said, options)


def _read_as_it_is(said: str, options: Options) -> int | None:
    readings: tuple[Callable[[str, Options], int | None], ...] = (
        whole_answer,
        _claimed,
        first_label,
        named_option,
        closest_option,
    )
    for reading in readings:
        if (found := reading(said, options)) is not None:
            return found
    return None


def _bounded(said: str) -> str:
    """Beginning and end of what is far too long for an answer, so that reading takes no time."""
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST // 4]}\n{said[-3 * _LONGEST // 4 :]}"


def _claimed(said: str, options: Options) -> int | None:
    """The answer says which it is: "the answer is ...", "I choose ...", "答案是...". The last such claim counts."""
    for cue in list(_CUE.finditer(said))[: -_CLAIMS - 1 : -1]:
        if _not_said(said, cue.start()) or _WONDERS.match(said, cue.end()):
            continue
        found = _claim(said[cue.end() : cue.end() + _LONGEST // 4], options)
        if found is not None:
            return found
    confirmed = [letter[1] for letter in _CONFIRMED.finditer(said) if not _not_said(said, letter.start())]
    return unless_a_note(confirmed[-1], options) if confirmed else None


def _not_said(said: str, place: int) -> bool:
    """Whether what begins here is denied or only wondered about."""
    return _WRONG_CUE.search(said, max(0, place - 20), place) is not None


def _claim(said: str, options: Options) -> int | None:
    """The option that a claim names at its beginning, or else in its first sentence."""
    said = said.strip()
    if not said:
        return None
    if (found := whole_answer(said, options)) is not None:
        return found
    if (found := certain_label(said, options)) is not None:
        return found
    words = words_of(said)
    named = texts(words, options)
    if named and named[0].first == 0 and not named[0].denied:
        return UNDECIDED if _listed(named, words) else named[0].option
    if (found := first_label(said, options)) is not None:
        return found
    end = SENTENCE_ENDS.search(said)
    return named_option(said[: end.start()] if end else said, options, claimed=True)


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
