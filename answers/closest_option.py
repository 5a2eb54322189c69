"""The option that an answer means without having its words: with some of them only, or misspelt."""

import re
from collections.abc import Iterable, Sequence

from answers.answer_text import EAST_ASIAN
from answers.option_mentions import denied
from answers.option_words import FUNCTION_WORDS, Options, is_pronoun, words_of
from answers.word_forms import singular, without_accents

_LONGEST = 12
"""Words of the longest answer that is compared."""
_EAST_ASIAN = re.compile(f"[{EAST_ASIAN}]")


def closest_option(said: str, options: Options) -> int | None:
    """Return the only option that has all words of the answer, or that is spelt nearly as the answer is.

    An answer of function words alone ("it", "the sound") means no option, and one with a negation neither. Numbers must
    be equal; a word that differs in a letter or two must be long, begin alike, and be no other option's word.

    Args:
        said: The answer.
        options: The options.
    """
    words = words_of(said)
    if len(words) == 1 and words[0].text in ("yes", "no"):
        return _unique(i for i, option in enumerate(options) if option.words[:1] == (words[0].text,))
    if not words or len(words) > _LONGEST or denied(words, len(words), len(words)):
        return None
    content = {word.text for place, word in enumerate(words) if not is_pronoun(words, place)} - FUNCTION_WORDS
    texts = [word.text for word in words]
    alike = [i for i, option in enumerate(options) if _plural(texts, option.words)]
    if len(alike) == 1:
        return alike[0]
    if content:
        for same in (str, singular):
            meant = {same(text) for text in content}
            found = [i for i, option in enumerate(options) if meant <= {same(text) for text in option.words}]
            if _EAST_ASIAN.search(joined := "".join(text for text in texts if text in content)):
                found = [i for i in found if joined in "".join(options[i].words)]
            if len(found) == 1:
                return found[0]
            if found:
                return None
    return _unique(i for i, option in enumerate(options) if _nearly(texts, option.words))


def _unique(indices: Iterable[int]) -> int | None:
    found = list(indices)
    return found[0] if len(found) == 1 else None


def _plural(said: Sequence[str], option: Sequence[str]) -> bool:
    return len(said) == len(option) and all(singular(a) == singular(b) for a, b in zip(said, option, strict=True))


def _nearly(said: Sequence[str], option: Sequence[str]) -> bool:
    """Whether the words are the option's but for spaces, plurals and a slip in long words."""
    if not option or "".join(said) == "".join(option):
        return bool(option)
    if len(said) != len(option):
        return False
    return all(
        singular(one) == singular(other)
        or one in (other, without_accents(other))
        or without_accents(one) == other
        or _slip(one, other)
        for one, other in zip(said, option, strict=True)
    )


def _slip(one: str, other: str) -> bool:
    """Whether two words differ by a slip: a letter more, less or other, or two letters that changed places."""
    if min(len(one), len(other)) < 4 or one[0] != other[0] or abs(len(one) - len(other)) > 1:
        return False
    if not (one.isalpha() and other.isalpha()):
        return False
    begin = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    a, b = one[begin:], other[begin:]
    end = next((i for i, (x, y) in enumerate(zip(a[::-1], b[::-1], strict=False)) if x != y), min(len(a), len(b)))
    a, b = a[: len(a) - end], b[: len(b) - end]
    if len(a) == len(b) == 2:
        return a == b[::-1]
    return len(a) <= 1 and len(b) <= 1 and min(len(one), len(other)) >= 5
