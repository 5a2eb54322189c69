"""Which clips have the same sound, whatever their format and level, and though one begins later than the other.

A fingerprint is made of pairs of neighbouring peaks of the spectrogram, each a number for (frequency, frequency, time
between them) with the time of the first; it follows the idea of Wang, "An industrial-strength audio search algorithm",
2003. Two clips are the same when many pairs agree at one and the same shift. Peaks are places, so that level does not
matter, and the loudest places, so that lossy coding hardly moves them.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, signal

from datamodules.media.audio import SAMPLE_RATE

WINDOW, HOP = 1024, 256  # 64 ms and 16 ms
LOWEST, HIGHEST = 4, 256  # bins of 15.6 Hz: what every codec keeps, 60 Hz to 4 kHz
NEIGHBOURHOOD = (15, 17)  # bins and frames within which a peak is the loudest
RANGE_DB = 60.0  # peaks further below the clip's loudest are noise of coding
FAN, REACH = 5, 128  # pairs of each peak, and the frames within which the second one lies
PEAKS_A_SECOND = 20
LEAST_PAIRS = 30
LEAST_SHARE = 0.1
LEAST_COVER = 0.5  # of the common part; two clips in which one note is the same agree nowhere else
LEAST_COMMON = 125  # frames, two seconds; three quarters of shorter clips
STRETCH = 16  # frames, a quarter of a second
_FREQUENCIES = 256
_SHIFTS = 2**32  # more than there are frames in a clip


@dataclass(frozen=True)
class Fingerprint:
    """Pairs of peaks of one clip.

    Attributes:
        pairs: A number for each pair ``[N]``.
        times: The frame of each pair's first peak ``[N]``.
        frames: The clip's length in frames.
        grids: How many grids of frames the pairs were taken from.
    """

    pairs: np.ndarray
    times: np.ndarray
    frames: int
    grids: int = 1

    @property
    def distinctive(self) -> bool:
        """Whether there are enough different pairs to tell the clip from others."""
        return len(np.unique(self.pairs)) >= LEAST_PAIRS


def fingerprint(waveform: np.ndarray, grids: int = 1) -> Fingerprint:
    """Return a clip's fingerprint; a silent clip's is empty.

    Args:
        waveform: Mono at 16 kHz.
        grids: Take peaks on so many grids of frames, each a part of a frame later, so that a clip that begins between
            two frames is found as well. For the known clips of an index.
    """
    offsets = [HOP * grid // grids for grid in range(grids)]
    taken = [_pairs(*_peaks(waveform[offset:])) for offset in offsets]
    return Fingerprint(
        np.concatenate([pairs for pairs, _ in taken]),
        np.concatenate([times for _, times in taken]),
        len(waveform) // HOP,
        grids,
    )


def _pairs(bins: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of neighbouring peaks and the frames of the first of them."""
    pairs, times = [], []
    for first in range(len(frames)):
        # the next peaks in time, but not those of the same moment: chords of one frame say nothing about time
        start = int(np.searchsorted(frames, frames[first] + 1))
        stop = min(int(np.searchsorted(frames, frames[first] + REACH)), start + FAN)
        for second in range(start, stop):
            apart = int(frames[second] - frames[first])
            pairs.append((int(bins[first]) * _FREQUENCIES + int(bins[second])) * REACH + apart)
            times.append(int(frames[first]))
    return np.array(pairs, dtype=np.int64), np.array(times, dtype=np.int64)


def _peaks(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return bin and frame of the spectrogram's loudest places, in order of time."""
    if len(waveform) < WINDOW or not np.abs(waveform).max() > 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    _, _, spectrum = signal.stft(waveform, nperseg=WINDOW, noverlap=WINDOW - HOP, padded=False, boundary=None)
    level = 20 * np.log10(np.abs(spectrum[LOWEST:HIGHEST]) + 1e-12)
    local = ndimage.maximum_filter(level, size=NEIGHBOURHOOD, mode="constant", cval=-np.inf)
    bins, frames = np.nonzero((level == local) & (level > level.max() - RANGE_DB))
    most = max(int(PEAKS_A_SECOND * len(waveform) / SAMPLE_RATE), 10)
    loudest = np.argsort(-level[bins, frames], kind="stable")[:most]
    order = np.lexsort((bins[loudest], frames[loudest]))
    return bins[loudest][order], frames[loudest][order]


@dataclass(frozen=True)
class Match:
    """Two clips that sound the same.

    Attributes:
        known: The name of the known clip.
        name: The name of the clip that was looked up.
        pairs: How many pairs of peaks agree.
        share: That number, relative to the pairs of the clip that has fewer.
        shift_seconds: How much later the same sound comes in the known clip.
    """

    known: str
    name: str
    pairs: int
    share: float
    shift_seconds: float


class FingerprintIndex:
    """Known clips, to be searched by sound."""

    def __init__(self, known: Iterable[tuple[str, Fingerprint]]) -> None:
        """Index clips.

        Args:
            known: Their names and fingerprints.
        """
        self._names: list[str] = []
        self._sizes: list[tuple[int, int]] = []
        pairs, clips, times = [], [], []
        for name, printed in known:
            pairs.append(printed.pairs)
            times.append(printed.times)
            clips.append(np.full(len(printed.pairs), len(self._names), dtype=np.int64))
            self._names.append(name)
            self._sizes.append((len(printed.pairs) // printed.grids, printed.frames))
        everything = np.concatenate(pairs) if pairs else np.empty(0, dtype=np.int64)
        order = np.argsort(everything, kind="stable")
        self._pairs = everything[order]
        self._clips = np.concatenate(clips)[order] if clips else everything
        self._times = np.concatenate(times)[order] if times else everything

    def search(self, name: str, printed: Fingerprint) -> Iterator[Match]:
        """Yield the known clips that sound like a clip.

        Args:
            name: The clip's name.
            printed: Its fingerprint.
        """
        for clip, (shift, places) in sorted(self._votes(printed).items()):
            size, frames = self._sizes[clip]
            count = len(set(printed.pairs[places].tolist()))
            share = count / max(min(size, len(printed.pairs)), 1)
            if count < LEAST_PAIRS or share < LEAST_SHARE:
                continue
            overlap = min(printed.frames, frames - shift) - max(0, -shift)
            if overlap < min(LEAST_COMMON, 0.75 * min(frames, printed.frames)):
                continue
            common = (printed.times + shift >= 0) & (printed.times + shift < frames)
            cover = len(set(printed.times[places] // STRETCH)) / len(set(printed.times[common] // STRETCH))
            if cover >= LEAST_COVER:
                yield Match(self._names[clip], name, count, share, shift * HOP / SAMPLE_RATE)

    def _votes(self, printed: Fingerprint) -> dict[int, tuple[int, list[int]]]:
        """Return for each known clip the shift at which most pairs agree, and which do."""
        starts = np.searchsorted(self._pairs, printed.pairs, side="left")
        stops = np.searchsorted(self._pairs, printed.pairs, side="right")
        found: dict[int, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        for place, hit in zip(*self._promising(printed, starts, stops), strict=True):
            clip, shift = int(self._clips[hit]), int(self._times[hit] - printed.times[place])
            # coding may move a peak by a frame, so that a vote counts for the shifts beside it too; a pair that comes
            # again and again, as in a steady tone, counts once
            for near in (shift - 1, shift, shift + 1):
                found[clip][near].add(place)
        best = {}
        for clip, shifts in found.items():
            distinct = {shift: len(set(printed.pairs[list(places)].tolist())) for shift, places in shifts.items()}
            shift = max(distinct, key=lambda s: (distinct[s], -abs(s)))
            best[clip] = shift, sorted(shifts[shift])
        return best

    def _promising(self, printed: Fingerprint, starts: np.ndarray, stops: np.ndarray) -> tuple[list[int], list[int]]:
        """Return the pairs of a clip and the indexed pairs that they equal, of known clips that can be matches at all.

        Of most known clips a few pairs agree by chance; these would take most of the time.
        """
        counts = stops - starts
        places = np.repeat(np.arange(len(counts)), counts)
        hits = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts) + starts[places]
        clips, shifts = self._clips[hits], self._times[hits] - printed.times[places]
        seen, votes = np.unique(clips * _SHIFTS + shifts + _SHIFTS // 2, return_counts=True)
        total = votes.copy()
        for apart in (1, 2):  # three shifts beside each other, as ``_votes`` counts them
            total[:-apart] += np.where(seen[apart:] - seen[:-apart] <= 2, votes[apart:], 0)
        promising = np.zeros(len(self._names), dtype=bool)
        promising[seen[total >= LEAST_PAIRS] // _SHIFTS] = True
        kept = promising[clips]
        return places[kept].tolist(), hits[kept].tolist()
