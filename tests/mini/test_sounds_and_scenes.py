"""A signal test hears every source and a pixel test sees it: what later stages build teacher and checker on."""

import itertools

import decord
import numpy as np

from mini.world.corpus import write_media
from mini.world.scenes import (
    COLOURS,
    SAMPLES,
    SLOTS,
    Scene,
    Source,
    draw_scene,
    render_audio,
    render_frames,
    slot_frames,
)
from mini.world.sounds import INSTRUMENTS, SOUNDS, synthesise

LENGTH = 8_000


def describe(wave: np.ndarray) -> np.ndarray:
    """Log energy in 24 bands and how it varies over time: all that the nearest-centroid test needs."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, 512)[::160] * np.hanning(512)
    power = np.abs(np.fft.rfft(frames)) ** 2
    edges = np.unique(np.geomspace(1, 257, 25).astype(int))
    bands = np.stack([power[:, a:b].sum(1) for a, b in itertools.pairwise(edges)], 1)
    share = np.log(bands / bands.sum() * len(bands) + 1e-4)
    loudness = np.log(bands.sum(1) / bands.sum() + 1e-5)
    return np.concatenate([share.mean(0), share.std(0), [loudness.std(), np.abs(np.diff(loudness)).mean()]])


def test_twelve_sources_are_separable_by_a_signal_test():
    assert len(SOUNDS) >= 12 and set(INSTRUMENTS) < set(SOUNDS)
    train = {s: [describe(_noisy(s, seed)) for seed in range(20)] for s in SOUNDS}
    scale = np.std([v for values in train.values() for v in values], axis=0)
    centroids = {s: np.mean(values, axis=0) / scale for s, values in train.items()}
    right = 0
    for sound in SOUNDS:
        for seed in range(100, 120):
            found = describe(_noisy(sound, seed)) / scale
            right += min(SOUNDS, key=lambda s: np.linalg.norm(found - centroids[s])) == sound
    assert right / (20 * len(SOUNDS)) > 0.95


def test_sounds_stay_in_range_and_vary():
    for sound in SOUNDS:
        one, other = (synthesise(sound, LENGTH, np.random.default_rng(seed)) for seed in (0, 1))
        assert np.abs(one).max() <= 1 and np.isfinite(one).all()
        assert not np.allclose(one, other)


def test_only_audible_sources_are_in_the_sound():
    bell = Source("bell", 0, audible=True, visible=False, cell=0)
    dog = Source("dog", 2, audible=False, visible=True, cell=1)
    wave = render_audio(Scene("x", (bell, dog), noise=0.0, seed=1))
    third = SAMPLES // SLOTS
    assert np.abs(wave[:third]).max() > 0.2
    assert np.abs(wave[third:]).max() == 0


def test_visible_sources_are_recognised_from_the_pixels_of_the_file(tmp_path):
    for seed in range(12):
        scene = draw_scene("clip", seed, silent=0.5, hidden=0.3)
        write_media(str(tmp_path / "clip.mp4"), scene)
        reader = decord.VideoReader(str(tmp_path / "clip.mp4"))
        assert see(reader.get_batch(range(len(reader))).asnumpy()) == {
            (s.sound, s.slot) for s in scene.sources if s.visible
        }


def see(frames: np.ndarray) -> set[tuple[str, int]]:
    """Name the glyph of each quarter by its colour, and the slot by where the white border is."""
    found = set()
    for cell in range(4):
        top, left = (cell // 2) * 32, (cell % 2) * 32
        quarter = frames[:, top : top + 32, left : left + 32].astype(float)
        border = np.concatenate([quarter[:, 2, 6:26], quarter[:, -3, 6:26]], 1).mean((1, 2))
        slots = [s for s in range(SLOTS) if border[slot_frames(s)].mean() > 170]
        if len(slots) == 1:
            glyph = np.median(quarter[:, 14:18, 8:24].reshape(-1, 3)[_bright(quarter[:, 14:18, 8:24])], axis=0)
            name = min(COLOURS, key=lambda s: np.linalg.norm(glyph - np.array(COLOURS[s])))
            found.add((name, slots[0]))
    return found


def test_frames_show_nothing_of_hidden_sources():
    hidden = Source("siren", 1, audible=True, visible=False, cell=2)
    frames = render_frames(Scene("x", (hidden,), noise=0.0, seed=5))
    assert (frames == frames[0, 0, 0]).all()


def _noisy(sound: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 0.5 * synthesise(sound, LENGTH, rng) + 0.01 * rng.standard_normal(LENGTH)


def _bright(patch: np.ndarray) -> np.ndarray:
    """Pixels of the glyph: those that differ from the grey background."""
    flat = patch.reshape(-1, 3)
    return np.abs(flat - 60).max(1) > 45
