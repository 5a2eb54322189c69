"""Recognising the sounds of a clip from its samples.

The ear is a linear classifier of spectra and rhythms, fitted once to the synthesiser's own sounds in noise.
"""

import threading
from functools import cache

import numpy as np
import torch

from mini.world.scenes import SAMPLES, SLOTS
from mini.world.sounds import SAMPLE_RATE, SOUNDS, synthesise

NOTHING = len(SOUNDS)
_BANDS = 24
_WINDOW, _HOP = 512, 160
_EXAMPLES = 90
_MODULATIONS = 16
_fitting = threading.Lock()


def listen(waveform: np.ndarray) -> np.ndarray:
    """Return how likely each sound is in each third of a clip ``[SLOTS, sounds + 1]``, the last column is silence.

    Args:
        waveform: Mono float32 at 16 kHz.
    """
    weights, bias, mean, scale = _ear()
    clip = np.zeros(SAMPLES, np.float64)
    clip[: min(len(waveform), SAMPLES)] = waveform[:SAMPLES]
    length = SAMPLES // SLOTS
    features = np.stack([_features(clip[slot * length : (slot + 1) * length]) for slot in range(SLOTS)])
    logits = ((features - mean) / scale) @ weights + bias
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True))


def heard_in_order(likely: np.ndarray) -> list[str]:
    """Return the sounds that are most likely in each third, in order."""
    return [SOUNDS[best] for best in likely.argmax(1) if best != NOTHING]


def probability(likely: np.ndarray, sound: str) -> float:
    """Return how likely it is that a sound is heard anywhere in the clip."""
    return float(1 - np.prod(1 - likely[:, SOUNDS.index(sound)]))


@cache
def _bands() -> np.ndarray:
    """Return overlapping triangular bands, narrow below and wide above ``[frequencies, bands]``."""
    frequencies = np.fft.rfftfreq(_WINDOW, 1 / SAMPLE_RATE)
    mel = 2595 * np.log10(1 + frequencies / 700)
    edges = np.linspace(0, mel[-1], _BANDS + 2)
    rising = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    return np.asarray(np.clip(np.minimum(rising, falling), 0, None))


def _features(samples: np.ndarray) -> np.ndarray:
    frames = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP] * np.hanning(_WINDOW)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2 @ _bands()
    levels = np.log(power + 1e-3)
    loudness = np.log(power.sum(1) + 1e-3)
    rhythm = np.abs(np.fft.rfft(loudness - loudness.mean(), 128))[1 : _MODULATIONS + 1] / len(loudness)
    spectrum = levels.mean(0)
    return np.concatenate([spectrum, spectrum - spectrum.mean(), levels.std(0), np.quantile(levels, 0.9, 0), rhythm])


def _ear() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the classifier; who comes while it is fitted waits instead of fitting another."""
    with _fitting:
        return _fit()


@cache
def _fit() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit the classifier: weights, bias, and the features' mean and scale."""
    rng = np.random.default_rng(7)
    length = SAMPLES // SLOTS
    rows, labels = [], []
    for label in range(len(SOUNDS) + 1):
        for _ in range(_EXAMPLES):
            mix = rng.standard_normal(length) * rng.uniform(0.002, 0.07)
            if label != NOTHING:
                size = int(rng.uniform(0.75, 0.92) * length)
                start = int(rng.integers(-length // 12, length - size + length // 12))
                begin, end = max(start, 0), min(start + size, length)
                sound = synthesise(SOUNDS[label], size, rng)
                mix[begin:end] += rng.uniform(0.35, 0.8) * sound[begin - start : end - start]
            rows.append(_features(np.clip(mix, -1, 1)))
            labels.append(label)
    features = np.stack(rows)
    mean, scale = features.mean(0), features.std(0) + 1e-6
    inputs = torch.from_numpy((features - mean) / scale)
    targets = torch.tensor(labels)
    weights = torch.zeros(inputs.shape[1], len(SOUNDS) + 1, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(SOUNDS) + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=80, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(inputs @ weights + bias, targets) + 2e-3 * weights.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return weights.detach().numpy(), bias.detach().numpy(), mean, scale
