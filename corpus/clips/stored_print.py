"""Fingerprints as text, and the few numbers by which clips with the same sound find each other."""

import base64
import zlib

import numpy as np

from evaluation.fingerprint import FAN, REACH, Fingerprint

KEYS = 64
"""Keys of a clip: the smallest ones, so that two clips with the same sound keep the same ones (bottom-k MinHash,
Broder, 1997)."""

_BINS = 256
_PAIR_BITS = np.uint64(23)
_MIX = np.uint64(0x9E3779B97F4A7C15)


def to_text(printed: Fingerprint) -> str:
    """Return a fingerprint as ASCII text."""
    parts = (
        np.array([len(printed.pairs), printed.frames, printed.grids], "<u4").tobytes(),
        printed.pairs.astype("<u4").tobytes(),
        printed.times.astype("<u4").tobytes(),
    )
    return base64.b64encode(zlib.compress(b"".join(parts), 1)).decode("ascii")


def from_text(text: str) -> Fingerprint:
    """Return the fingerprint of a text.

    Raises:
        ValueError: It is none.
    """
    try:
        numbers = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), "<u4").astype(np.int64)
    except zlib.error as error:
        raise ValueError(f"not a fingerprint ({error})") from None
    count, frames, grids = (int(number) for number in numbers[:3])
    return Fingerprint(numbers[3 : 3 + count], numbers[3 + count :], frames, grids)


def keys_of(printed: Fingerprint) -> np.ndarray:
    """Return the keys of a clip.

    A key is made of two pairs that begin at one peak: three peaks and the times between them, which two sounds hardly
    have in common by chance.

    Returns:
        ``[K]``, uint64, in rising order; K is at most ``KEYS``.
    """
    pairs, times = printed.pairs, printed.times
    first = pairs // (_BINS * REACH)
    keys = [np.empty(0, np.uint64)]
    for apart in range(1, FAN):
        same = (times[apart:] == times[:-apart]) & (first[apart:] == first[:-apart])
        one, two = pairs[:-apart][same].astype(np.uint64), pairs[apart:][same].astype(np.uint64)
        keys.append(_mixed((one << _PAIR_BITS) | two))
    return np.unique(np.concatenate(keys))[:KEYS]


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Return numbers in an order of their own, one to one."""
    mixed: np.ndarray = numbers * _MIX
    mixed ^= mixed >> np.uint64(29)
    return np.asarray(mixed * _MIX)
