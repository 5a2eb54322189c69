"""Forms of a word that mean the same: one and several, with and without accents, "barks" and "barking"."""

import re
import unicodedata

_PLURALS = {"men": "man", "women": "woman", "children": "child", "people": "person", "mice": "mouse", "geese": "goose"}
_MARKS = re.compile("[\u0300-\u036f]")
_VOWEL = re.compile("[aeiouy]")


def singular(word: str) -> str:
    """Return a noun without the ending of the plural.

    Args:
        word: The word in lower case.
    """
    if word in _PLURALS:
        return _PLURALS[word]
    if len(word) > 4 and word.endswith("es") and word[-3] in "sxz":
        return word[:-2]
    return word[:-1] if len(word) > 3 and word[-1] == "s" and word[-2] not in "sui" else word


def stem(word: str) -> str:
    """Return what the forms of a verb or noun have in common: "bark" of "barks", "barked" and "barking".

    Args:
        word: The word in lower case.
    """
    word = singular(word)
    for ending in ("ing", "ed"):
        rest = word.removesuffix(ending)
        if rest != word and len(rest) > 2 and _VOWEL.search(rest):
            word = rest[:-1] if rest[-1] == rest[-2] and rest[-1] not in "ls" else rest
            break
    return word.removesuffix("e") if len(word) > 3 else word


def without_accents(word: str) -> str:
    """Return a word of Latin, Greek or Cyrillic letters without the marks on them.

    Args:
        word: The word.
    """
    if word.isascii():
        return word
    return unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFD", word)))
