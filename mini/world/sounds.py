"""The sounds of the synthetic world: one small synthesiser for each source.

Every source has its own place in time and frequency, so that a signal test can tell them apart, and enough freedom
(pitch, rate, loudness, phase) that a model has to learn the kind and not the clip.
"""

from collections.abc import Callable

import numpy as np

SAMPLE_RATE = 16_000

Synthesiser = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _harmonics(t: np.ndarray, frequency: np.ndarray | float, weights: list[float], phase: float = 0.0) -> np.ndarray:
    """Return a harmonic tone whose pitch may vary with time."""
    angle = 2 * np.pi * np.cumsum(np.broadcast_to(frequency, t.shape)) / SAMPLE_RATE + phase
    return np.sum([w * np.sin(k * angle) for k, w in enumerate(weights, 1)], axis=0)


def _pulses(t: np.ndarray, rate: float, decay: float) -> np.ndarray:
    """Return an envelope that restarts ``rate`` times a second and decays with the given rate constant."""
    return np.exp(-decay * np.mod(t, 1 / rate))


def _high_passed(noise: np.ndarray) -> np.ndarray:
    return np.diff(noise, prepend=0.0)


def _smoothed(noise: np.ndarray, width: int) -> np.ndarray:
    return np.convolve(noise, np.ones(width) / width, mode="same")


def _bell(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    f = rng.uniform(600, 900)
    return np.sum(
        [w * np.sin(2 * np.pi * f * r * t) * np.exp(-d * t) for r, w, d in ((1, 1, 5), (2.76, 0.8, 7), (5.4, 0.6, 9))],
        axis=0,
    )


def _siren(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rate, low = rng.uniform(2.5, 4.0), rng.uniform(500, 650)
    sweep = low + 700 * (0.5 - 0.5 * np.cos(2 * np.pi * rate * t + rng.uniform(0, 6.28)))
    return _harmonics(t, sweep, [1.0, 0.4, 0.2])


def _engine(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    f = rng.uniform(45, 75)
    tone = _harmonics(t, f, [1 / k for k in range(1, 13)], rng.uniform(0, 6.28))
    return tone + 0.5 * _smoothed(rng.standard_normal(t.size), 12)


def _rain(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    drops = (rng.random(t.size) < 0.004) * rng.standard_normal(t.size) * 4
    return _high_passed(rng.standard_normal(t.size)) * 0.6 + drops


def _bird(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rate, low = rng.uniform(7, 10), rng.uniform(3200, 3800)
    sweep = low + 1800 * np.mod(t * rate, 1.0)
    return _harmonics(t, sweep, [1.0]) * _pulses(t, rate, 14)


def _beep(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rate = rng.uniform(5, 7)
    gate = (np.mod(t * rate + rng.uniform(0, 1), 1.0) < 0.5).astype(float)
    return _harmonics(t, rng.uniform(950, 1250), [1.0, 0.0, 0.5, 0.0, 0.3]) * gate


def _whistle(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    trill = 1 + 0.03 * np.sin(2 * np.pi * rng.uniform(20, 28) * t)
    return _harmonics(t, rng.uniform(2000, 2600) * trill, [1.0])


def _dog(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rate = rng.uniform(3.4, 4.4)
    phase = np.mod(t, 1 / rate)
    pitch = rng.uniform(420, 560) * (1 - 1.2 * phase)
    bark = _harmonics(t, pitch, [1.0, 0.9, 0.7, 0.5, 0.3]) + 0.7 * _smoothed(rng.standard_normal(t.size), 4)
    return bark * np.exp(-((phase - 0.06) ** 2) / 0.0016)


def _drum(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rate = rng.uniform(4.5, 7)
    thump = np.sin(2 * np.pi * rng.uniform(90, 140) * t) + 0.5 * rng.standard_normal(t.size)
    return thump * _pulses(t, rate, 32)


def _flute(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    tone = _harmonics(t, rng.uniform(700, 1000), [1.0, 0.25, 0.08])
    tremolo = 1 + 0.3 * np.sin(2 * np.pi * rng.uniform(4, 6) * t)
    return tone * tremolo + 0.08 * _high_passed(rng.standard_normal(t.size))


def _violin(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    vibrato = 1 + 0.02 * np.sin(2 * np.pi * rng.uniform(5.5, 7) * t)
    return _harmonics(t, rng.uniform(330, 520) * vibrato, [1 / k**0.7 for k in range(1, 12)])


def _piano(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rate = rng.uniform(3.5, 5)
    steps = np.array([1.0, 1.26, 1.5, 2.0])[rng.permutation(4)]
    pitch = rng.uniform(200, 280) * steps[np.minimum((t * rate).astype(int), 3)]
    return _harmonics(t, pitch, [1.0, 0.6, 0.35, 0.2]) * _pulses(t, rate, 9)


SYNTHESISERS: dict[str, Synthesiser] = {
    "bell": _bell,
    "siren": _siren,
    "engine": _engine,
    "rain": _rain,
    "bird": _bird,
    "beep": _beep,
    "whistle": _whistle,
    "dog": _dog,
    "drum": _drum,
    "flute": _flute,
    "violin": _violin,
    "piano": _piano,
}
SOUNDS = tuple(SYNTHESISERS)
INSTRUMENTS = ("drum", "flute", "violin", "piano")


def synthesise(sound: str, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return one occurrence of a sound, float64 with a peak of 1 and soft edges.

    Args:
        sound: One of ``SOUNDS``.
        samples: Length at 16 kHz.
        rng: Draws pitch, rate and the like.
    """
    t = np.arange(samples) / SAMPLE_RATE
    wave = SYNTHESISERS[sound](t, rng)
    wave /= np.abs(wave).max() + 1e-9
    edge = min(samples // 4, 240)
    ramp = np.ones(samples)
    ramp[:edge] = np.linspace(0, 1, edge)
    ramp[-edge:] = np.linspace(1, 0, edge)
    return wave * ramp
