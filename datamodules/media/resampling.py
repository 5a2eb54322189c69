"""Resampling to 16 kHz, in little memory whatever the rate."""

import math

import numpy as np
import torch
import torchaudio

SAMPLE_RATE = 16_000
LOWEST_RATE = 1_000
"""A file that names a lower rate does not tell the truth; a second of it would become many."""

_LARGEST_KERNEL = 4_000_000
"""Products of the two rates, without common factors, up to which torchaudio is used: its kernel has so many numbers."""

_ZEROS, _ROLLOFF = 6, 0.99
"""Zero crossings of the filter on each side and its edge relative to the lower rate's half, as torchaudio has them."""

_WEIGHTS_AT_ONCE = 1_000_000


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return samples at 16 kHz.

    torchaudio does it for the usual rates. It keeps a filter for each phase, which takes gigabytes where the rates have
    no common factor (44,101 Hz); then the same filter is evaluated where it is needed.

    Args:
        samples: Mono float32 ``[N]``.
        rate: Their rate in Hz.

    Returns:
        Mono float32 ``[ceil(N * 16000 / rate)]``.

    Raises:
        ValueError: The rate is lower than any that sound is kept at.
    """
    if rate < LOWEST_RATE:
        raise ValueError(f"a sampling rate of {rate} Hz cannot be right")
    if rate == SAMPLE_RATE or len(samples) == 0:
        return samples
    common = math.gcd(rate, SAMPLE_RATE)
    if (rate // common) * (SAMPLE_RATE // common) <= _LARGEST_KERNEL:
        resampled: np.ndarray = torchaudio.functional.resample(torch.from_numpy(samples), rate, SAMPLE_RATE).numpy()
        return resampled
    return _windowed_sinc(samples, rate)


def _windowed_sinc(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return samples at 16 kHz by a sinc under a Hann window, which is evaluated for each sample."""
    edge = _ROLLOFF * min(rate, SAMPLE_RATE)
    width = math.ceil(_ZEROS * rate / edge)
    padded = np.pad(samples, width + 1)
    resampled = np.empty(-(-len(samples) * SAMPLE_RATE // rate), dtype=np.float32)
    taps = np.arange(-width, width + 1)
    block = max(1, _WEIGHTS_AT_ONCE // len(taps))
    for start in range(0, len(resampled), block):
        stop = min(start + block, len(resampled))
        # whole numbers, so that the phase is exact however long the clip
        whole, rest = np.divmod(np.arange(start, stop, dtype=np.int64) * rate, SAMPLE_RATE)
        time = (taps[None, :] - (rest / SAMPLE_RATE)[:, None]) * (edge / rate)
        window = np.cos(np.clip(time, -_ZEROS, _ZEROS) * (np.pi / _ZEROS / 2)) ** 2
        weights = np.sinc(time) * window * (edge / rate)
        resampled[start:stop] = (padded[whole[:, None] + taps + width + 1] * weights).sum(axis=1)
    return resampled
