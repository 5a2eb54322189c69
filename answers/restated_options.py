"""Where an answer repeats the options as they were shown, before it says which one it is."""

from collections.abc import Sequence

from answers.number_words import Word
from answers.option_mentions import Mention
from answers.option_words import Options

_BETWEEN = frozenset({"and", "or", "und", "oder", "和", "或", "与", "還", "还"})
_ENDS_A_LIST = "?!"


def restated(named: Sequence[Mention], words: Sequence[Word], options: Options) -> range | None:
    """Return the places of the words in which all options are named one after the other, in the order of the options.

    Nothing but commas, "and", "or" and labels may stand between them. Two options without labels are no list: "a dog
    and a cat" may be heard.

    Args:
        named: The options that are named by their texts.
        words: The words of the answer.
        options: The options.
    """
    for begin in range(len(named) - len(options) + 1):
        run = named[begin : begin + len(options)]
        if [mention.option for mention in run] != list(range(len(options))):
            continue
        labelled = [_labels(words, run, place) for place in range(len(run))]
        if None in labelled or (len(options) < 3 and not all(labelled)):
            continue
        return range(run[0].first - (1 if labelled[0] else 0), run[-1].last + 1)
    return None


def outside(mentions: Sequence[Mention], places: range) -> list[Mention]:
    """Return the mentions that are no part of a list.

    Args:
        mentions: Options that are named.
        places: The places of the list's words.
    """
    return [mention for mention in mentions if mention.first not in places]


def _labels(words: Sequence[Word], run: Sequence[Mention], place: int) -> bool | None:
    """Whether the option has a label before it; None where it is no part of a list."""
    label = (chr(ord("a") + place), str(place + 1))
    before = run[place].first - 1
    if place == 0:
        return before >= 0 and words[before].text in label
    between = words[run[place - 1].last + 1 : run[place].first]
    gaps = [word.gap for word in words[run[place - 1].last + 1 : run[place].first + 1]]
    if any(end in gap for gap in gaps for end in _ENDS_A_LIST):
        return None
    has_label = bool(between) and between[-1].text in label
    glue = between[:-1] if has_label else between
    return has_label if all(word.text in _BETWEEN for word in glue) else None
