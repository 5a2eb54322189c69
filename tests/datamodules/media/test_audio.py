import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from datamodules.media import audio
from datamodules.media.audio import MediaError, WaveformCache, load_waveform, resolve_media, wav_bytes
from tests.support.dataset_files import SHARED, needs_shared, tone, write_mp4


def test_wav_at_16_khz_gives_the_exact_samples(tmp_path: Path) -> None:
    samples = np.array([0, 1, -1, 32767, -32768] * 100, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="PCM_16")
    assert np.array_equal(load_waveform(tmp_path / "a.wav"), samples / np.float32(32768))


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_stereo_becomes_the_mean_of_the_channels(tmp_path: Path, suffix: str) -> None:
    left, right = tone(0.5, 300), tone(0.5, 500)
    soundfile.write(tmp_path / f"a.{suffix}", np.stack([left, right], 1), 16_000, subtype="PCM_24")
    assert np.abs(load_waveform(tmp_path / f"a.{suffix}") - (left + right) / 2).max() < 1e-6


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_are_resampled_by_torchaudio(tmp_path: Path, rate: int) -> None:
    samples = tone(0.5, 440, rate)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    expected = torchaudio.functional.resample(torch.from_numpy(samples), rate, 16_000).numpy()
    loaded = load_waveform(tmp_path / "a.wav")
    assert loaded.shape == (8_000,)
    assert np.array_equal(loaded, expected)


@pytest.mark.parametrize("suffix", ["ogg", "mp3"])
def test_compressed_files_sound_as_they_should(tmp_path: Path, suffix: str) -> None:
    soundfile.write(tmp_path / f"a.{suffix}", tone(1.0), 16_000)
    assert _loudest_frequency(load_waveform(tmp_path / f"a.{suffix}")) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("seconds", [0.3, 2.37])
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_the_rate_of_a_video_is_found(tmp_path: Path, rate: int, seconds: float) -> None:
    write_mp4(tmp_path / "a.mp4", tone(seconds, 440, rate), rate)
    waveform = load_waveform(tmp_path / "a.mp4")
    # the codec pads to blocks of 1024 samples, one or two of them
    assert seconds * 16_000 <= len(waveform) <= (seconds * rate + 2048) / rate * 16_000 + 1
    assert _loudest_frequency(waveform) == pytest.approx(440, abs=5)
    middle = waveform[2000:4000]
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.4 / 2**0.5, abs=0.02)


@pytest.mark.parametrize("suffix", ["wav", "mp4"])
def test_max_seconds_keeps_the_beginning(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "wav":
        soundfile.write(path, tone(3, 440, 44_100), 44_100)
    else:
        write_mp4(path, tone(3, 440, 44_100), 44_100)
    cut = load_waveform(path, max_seconds=1.25)
    assert len(cut) == 20_000
    assert np.array_equal(cut, load_waveform(path)[:20_000])


def test_wav_bytes_are_read_back_exactly() -> None:
    samples = np.array([0.1, -1.5, 1e-20, 1.0], dtype=np.float32)
    read, rate = soundfile.read(io.BytesIO(wav_bytes(samples)), dtype="float32")
    assert rate == 16_000
    assert np.array_equal(read, samples)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("this is not media " * 50)


def _folder(path: Path) -> None:
    path.mkdir()


def _no_samples(path: Path) -> None:
    soundfile.write(path, np.zeros(0, np.float32), 16_000)


def _too_short(path: Path) -> None:
    soundfile.write(path, np.zeros(399, np.float32), 16_000)


def _nan(path: Path) -> None:
    soundfile.write(path, np.array([0.0] * 500 + [np.nan], np.float32), 16_000, subtype="FLOAT")


def _infinite(path: Path) -> None:
    soundfile.write(path, np.array([0.0] * 500 + [np.inf], np.float32), 16_000, subtype="FLOAT")


def _cut_header(path: Path) -> None:
    soundfile.write(path, tone(0.5), 16_000)
    path.write_bytes(path.read_bytes()[:20])


def _no_track(path: Path) -> None:
    write_mp4(path, None)


def _cut_video(path: Path) -> None:
    write_mp4(path, tone(1.0))
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.wav", None, "the file is missing"),
        ("a.mp4", None, "the file is missing"),
        ("a.wav", _folder, "this is not a file"),
        ("a.wav", _empty, "the file is empty"),
        ("a.mp4", _empty, "the file is empty"),
        ("a.wav", _text, "the audio cannot be decoded"),
        ("a.mp3", _text, "the audio cannot be decoded"),
        ("a.mp4", _text, "the audio cannot be decoded"),
        ("a.wav", _cut_header, "the audio cannot be decoded"),
        ("a.mp4", _cut_video, "the audio cannot be decoded"),
        ("a.mp4", _no_track, "there is no audio track"),
        ("a.wav", _no_samples, r"too short to be heard \(0.0 ms\)"),
        ("a.wav", _too_short, r"too short to be heard \(24.9 ms\)"),
        ("a.wav", _nan, "contains NaN or infinite samples"),
        ("a.wav", _infinite, "contains NaN or infinite samples"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, make: object, message: str) -> None:
    path = tmp_path / name
    if callable(make):
        make(path)
    with pytest.raises(MediaError, match=message) as error:
        load_waveform(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("relative", "message"),
    [
        ("../secret.wav", "leads out of it"),
        ("a/../../secret.wav", "leads out of it"),
        ("/etc/passwd", "is absolute"),
        ("", "is not a path"),
        ("a\0.wav", "is not a path"),
        ("link.wav", "a symbolic link leads out"),
        ("linked/secret.wav", "a symbolic link leads out"),
    ],
)
def test_paths_may_not_leave_the_folder(tmp_path: Path, relative: str, message: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.wav").write_bytes(b"")
    (root / "link.wav").symlink_to(tmp_path / "secret.wav")
    (root / "linked").symlink_to(tmp_path)
    with pytest.raises(MediaError, match=message):
        resolve_media(root, relative)


def test_harmless_paths_and_accepted_links_are_resolved(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.wav").symlink_to(tmp_path / "elsewhere.wav")
    assert resolve_media(root, "./a/../b.wav") == root / "b.wav"
    assert resolve_media(root, "link.wav", follow_links=True) == root / "link.wav"


def test_a_media_folder_that_is_itself_a_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert resolve_media(tmp_path / "root", "a.wav") == tmp_path / "root" / "a.wav"


class TestWaveformCache:
    def test_decodes_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        soundfile.write(tmp_path / "a.wav", tone(0.5), 16_000)
        cache = WaveformCache(tmp_path / "cache")
        first = cache.load(tmp_path / "a.wav")
        monkeypatch.setattr(audio, "load_waveform", None)
        assert np.array_equal(first, cache.load(tmp_path / "a.wav"))

    def test_notices_a_changed_file_and_another_length(self, tmp_path: Path) -> None:
        path = tmp_path / "a.wav"
        soundfile.write(path, tone(0.5), 16_000)
        cache = WaveformCache(tmp_path / "cache")
        assert len(cache.load(path)) == 8_000
        assert len(cache.load(path, max_seconds=0.25)) == 4_000
        soundfile.write(path, tone(0.5, 500), 16_000)
        os.utime(path, ns=(1, 1))
        assert np.array_equal(cache.load(path), load_waveform(path))

    def test_replaces_a_damaged_entry(self, tmp_path: Path) -> None:
        path = tmp_path / "a.wav"
        soundfile.write(path, tone(0.5), 16_000)
        cache = WaveformCache(tmp_path / "cache")
        good = cache.load(path)
        for damage in (b"", b"\x93NUMPY", cache.place(path).read_bytes()[:-100]):
            cache.place(path).write_bytes(damage)
            assert np.array_equal(cache.load(path), good)
            assert np.array_equal(np.load(cache.place(path)), good)
        assert not list((tmp_path / "cache").rglob("*.partial"))

    def test_missing_clip(self, tmp_path: Path) -> None:
        with pytest.raises(MediaError, match="is missing"):
            WaveformCache(tmp_path).load(tmp_path / "a.wav")


@needs_shared
class TestRealMedia:
    def test_video(self) -> None:
        waveform = load_waveform(SHARED / "media" / "nasa_13013.mp4")
        assert waveform.shape == (13.056 * 16_000,)  # its first audio track: 13.056 s at 8 kHz
        assert waveform.dtype == np.float32
        assert 0.3 < np.abs(waveform).max() < 1.5

    def test_wav(self) -> None:
        assert load_waveform(SHARED / "media" / "R9_ZSCveAHg_7s.wav").shape == (7 * 16_000,)
        mmau = SHARED / "mmau" / "test-mini-audios" / "3fe64f3d-282c-4bc8-a753-68f8f6c35652.wav"
        assert load_waveform(mmau).shape == (10 * 16_000,)

    def test_corrupted(self) -> None:
        with pytest.raises(MediaError, match=r"corrupted\.mp4: there is no audio track that can be decoded"):
            load_waveform(SHARED / "media" / "corrupted.mp4")


def _loudest_frequency(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform, 160_000))
    return float(spectrum.argmax()) / 10
