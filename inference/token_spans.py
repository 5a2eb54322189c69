"""One text in the tokens of two vocabularies: which tokens of one are the same bytes as which of the other."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """The shortest stretch of text that begins and ends at a token's edge in both vocabularies.

    Attributes:
        ours: Its tokens in the first vocabulary.
        theirs: Its tokens in the second.
    """

    ours: slice
    theirs: slice


def byte_spans(ours: Sequence[int], theirs: Sequence[int]) -> list[Span]:
    """Walk both sequences of tokens by bytes, and close a span wherever both end at the same byte.

    Args:
        ours: Bytes of each token in the first vocabulary, at least 1 each.
        theirs: The same text's in the second; where one text is longer, its end has no span.
    """
    spans: list[Span] = []
    first = second = here = there = 0
    i = j = 0
    while True:
        if here <= there:
            if i == len(ours):
                return spans
            here, i = here + ours[i], i + 1
        else:
            if j == len(theirs):
                return spans
            there, j = there + theirs[j], j + 1
        if here == there:
            spans.append(Span(slice(first, i), slice(second, j)))
            first, second = i, j


def spread(spans: Sequence[Span], ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return what the second model thinks of the first's tokens, in log-probabilities.

    Each token of a span gets its own log-probability and the whole difference of the span's sums: who gained what
    within a span cannot be told, and every one of its tokens was needed to write it.

    Args:
        spans: Which tokens are the same bytes.
        ours: Log-probability of each token under the first model.
        theirs: Log-probability of each token of the second vocabulary under the second model.

    Returns:
        One for each of our tokens; NaN for those in no span.
    """
    found = [math.nan] * len(ours)
    for span in spans:
        given = ours[span.ours]
        if len(given) == 1 == span.theirs.stop - span.theirs.start:
            found[span.ours.start] = theirs[span.theirs.start]
            continue
        difference = sum(theirs[span.theirs]) - sum(given)
        found[span.ours] = [own + difference for own in given]
    return found
