"""Options whose words an answer says in their order, with others between them or in other forms."""

from collections.abc import Sequence

from answers.number_words import Word, listed
from answers.option_mentions import Mention, denied
from answers.option_words import FUNCTION_WORDS, Options
from answers.word_forms import singular, stem

_NEGATIONS = frozenset({"no", "not"})
_EMPTY = FUNCTION_WORDS - _NEGATIONS - {"yes"}
"""Words of an option that need not be said."""
_MAY_STAND_BETWEEN = _EMPTY | frozenset(listed("heard clearly very quite really someone being"))
_ENDS = frozenset(".!?;\n")


def scattered(words: Sequence[Word], options: Options) -> list[Mention]:
    """Return where options are said as "the dog is barking" says "dog barking", or "dogs" says "dog".

    Args:
        words: The words of an answer.
        options: The options.
    """
    found = []
    for index, option in enumerate(options):
        content = [word for word in option.words if word not in _EMPTY]
        if option.letters or not content or (len(content) == 1 and not _is_noun(content[0])):
            continue
        form = stem if len(content) > 1 else singular
        wanted = [form(word) for word in content]
        for first, word in enumerate(words):
            if form(word.text) == wanted[0] and "'" not in word.raw:
                last = _last(words, first, wanted)
                if last is not None:
                    found.append(Mention(index, first, last, denied(words, first, last)))
    return found


def _is_noun(word: str) -> bool:
    return len(word) > 2 and word.isalpha() and word not in FUNCTION_WORDS


def _last(words: Sequence[Word], first: int, wanted: Sequence[str]) -> int | None:
    """The place of the last of some words that begin here."""
    place = first
    for text in wanted[1:]:
        place += 1
        while place < len(words) and stem(words[place].text) != text:
            if words[place].text not in _MAY_STAND_BETWEEN or _ENDS & set(words[place].gap):
                return None
            place += 1
        if place == len(words) or _ENDS & set(words[place].gap):
            return None
    return place
