import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from datamodules.media.audio import MediaError, load_waveform
from datamodules.media.resampling import _windowed_sinc, resample

PRIMES = [11_127, 15_999, 16_001, 22_051, 22_254, 44_101, 999_983]


@pytest.mark.parametrize("rate", PRIMES)
def test_rates_without_a_common_factor(rate: int) -> None:
    seconds = 0.2 if rate > 100_000 else 1.0
    samples = (0.4 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)).astype(np.float32)
    tracemalloc.start()
    resampled = resample(samples, rate)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(resampled) == -(-len(samples) * 16_000 // rate)
    expected = 0.4 * np.sin(2 * np.pi * 440 * np.arange(len(resampled)) / 16_000)
    assert np.abs(resampled - expected)[200:-200].max() < 2e-4
    assert peak < 100e6  # the filters of all phases of 44,101 Hz would be 2.8 GB


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 47_952])
def test_the_filter_is_that_of_torchaudio(rate: int) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, rate // 10 + 7).astype(np.float32)
    expected = torchaudio.functional.resample(torch.from_numpy(samples), rate, 16_000).numpy()
    assert np.array_equal(resample(samples, rate), expected)  # the usual way for these
    assert np.abs(_windowed_sinc(samples, rate) - expected).max() < 2e-5


def test_a_rate_that_cannot_be_right_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16)
    with pytest.raises(MediaError, match=r"a\.wav: the audio cannot be decoded \(a sampling rate of 16 Hz cannot"):
        load_waveform(tmp_path / "a.wav")


def test_the_beginning_is_the_same_however_much_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 3 * 44_101), 44_101)
    assert np.array_equal(load_waveform(tmp_path / "a.wav", 1.0), load_waveform(tmp_path / "a.wav")[:16_000])
