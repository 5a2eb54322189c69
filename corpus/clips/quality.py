"""Whether a clip can be heard and whether something moves in it: pure measures of samples and pictures."""

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from corpus.clips.settings import ClipSettings
from datamodules.media.audio import SAMPLE_RATE

_BLOCK = SAMPLE_RATE // 10
_FULL_SCALE = 0.99
_GRID, _FINER = 16, 4


def level_db(samples: np.ndarray) -> float:
    """Return the root mean square of samples in dB below full scale, at least -200."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    return max(10 * np.log10(power) if power > 0 else -200.0, -200.0)


def heard(waveform: np.ndarray, settings: ClipSettings) -> tuple[str, str] | None:
    """Return why a clip cannot be heard well, as a reason and in words, or None where it can.

    Args:
        waveform: Mono float32 at 16 kHz.
        settings: What counts as silence, too quiet and clipped.
    """
    blocks = [waveform[start : start + _BLOCK] for start in range(0, len(waveform), _BLOCK)]
    loudest = max(map(level_db, blocks))
    if loudest < settings.silence_db:
        return "silence", f"the loudest tenth of a second has {loudest:.0f} dB"
    level = level_db(waveform)
    if level < settings.quiet_db:
        return "too quiet", f"the level is {level:.0f} dB"
    share = float(np.mean(np.abs(waveform) >= _FULL_SCALE))
    if share > settings.clipped_share:
        return "clipped", f"{100 * share:.1f}% of the samples are at full scale"
    return None


def moves(pictures: Iterable[np.ndarray], threshold: float) -> bool:
    """Return whether pictures differ; only as many are looked at as it takes.

    Args:
        pictures: Grey levels ``[16, 16]``, 0 to 255, in order of time.
        threshold: Grey levels by which a cell has to differ from what it was at first.
    """
    pictures = iter(pictures)
    for first in itertools.islice(pictures, 1):
        return any(float(np.abs(picture - first).max()) >= threshold for picture in pictures)
    return False


def grey_grid(frame: Any) -> np.ndarray:
    """Return a frame of PyAV as the mean grey levels of 16 x 16 cells, float32."""
    side = _GRID * _FINER
    small = frame.reformat(width=side, height=side, format="gray", interpolation="AREA").to_ndarray()
    cells = small.astype(np.float32).reshape(_GRID, _FINER, _GRID, _FINER)
    return np.asarray(cells.mean((1, 3)))
