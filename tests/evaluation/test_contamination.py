"""Shared clips are found by name and by sound; other clips are not."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.media.audio import ClipFolder, load_waveform
from evaluation.__main__ import main
from evaluation.contamination import ClipSet, Shared, audit, read_clip_set, youtube_clip
from evaluation.fingerprint import FingerprintIndex, fingerprint
from runtime.errors import UserError
from tests.support.dataset_files import SHARED, needs_shared, tone, write_mp4

RATE = 16_000


def melody(seed: int, seconds: float = 4.0) -> np.ndarray:
    """Notes of random pitch and length with overtones, over a little noise."""
    rng = np.random.default_rng(seed)
    samples = 0.001 * rng.standard_normal(round(seconds * RATE))
    place = 0
    while place < len(samples):
        note = tone(rng.uniform(0.1, 0.4), rng.uniform(150, 1500))
        note = (note + 0.5 * note**2) * np.linspace(1, 0.1, len(note))
        part = samples[place : place + len(note)]
        part += note[: len(part)]
        place += len(note)
    return samples.astype(np.float32)


@pytest.mark.parametrize(
    ("media", "clip"),
    [
        ("videos/-HG3Omg_89c_000030.mp4", ("-HG3Omg_89c", 30.0)),
        ("R9_ZSCveAHg_7s.wav", ("R9_ZSCveAHg", 7.0)),
        ("a/R9_ZSCveAHg_30.000_40.000.flac", ("R9_ZSCveAHg", 30.0)),
        ("R9_ZSCveAHg_30_40.wav", ("R9_ZSCveAHg", 30.0)),
        ("test-mini-audios/3fe64f3d-282c-4bc8-a753-68f8f6c35652.wav", None),
        ("videos/00000093.mp4", None),
        ("videos/sa00008442.mp4", None),
        ("short_000030.mp4", None),
    ],
)
def test_youtube_names(media: str, clip: tuple[str, float] | None) -> None:
    assert youtube_clip(media) == clip


def test_clips_with_names_are_compared_by_name_and_need_not_exist(tmp_path: Path) -> None:
    train = ClipSet("t", ClipFolder(tmp_path), ("aaaaaaaaaaa_000030.mp4", "bbbbbbbbbbb_000000.mp4"))
    benchmark = ClipSet(
        "b",
        ClipFolder(tmp_path),
        ("aaaaaaaaaaa_30s.wav", "aaaaaaaaaaa_000039.mp4", "aaaaaaaaaaa_000040.mp4", "ccccccccccc_000000.mp4"),
    )
    found = audit(train, benchmark)
    assert [(pair.benchmark, pair.train, pair.how) for pair in found.shared] == [
        ("aaaaaaaaaaa_30s.wav", "aaaaaaaaaaa_000030.mp4", "same name"),
        ("aaaaaaaaaaa_000039.mp4", "aaaaaaaaaaa_000030.mp4", "overlapping"),  # 9 of 10 seconds apart
    ]
    assert found.by_sound == 0 and not found.unheard


def write(path: Path, samples: np.ndarray, how: str) -> Path:
    if how.startswith("mp4"):
        write_mp4(path.with_suffix(".mp4"), samples, channels=2 if "stereo" in how else 1)
        return path.with_suffix(".mp4")
    soundfile.write(path.with_suffix(f".{how}"), samples, RATE)
    return path.with_suffix(f".{how}")


@pytest.mark.parametrize("level", [1.0, 0.1])
@pytest.mark.parametrize("how", ["wav", "flac", "ogg", "mp3", "mp4", "mp4 stereo"])
def test_the_same_sound_is_found_in_any_format_at_any_level(tmp_path: Path, how: str, level: float) -> None:
    index = FingerprintIndex((str(seed), fingerprint(melody(seed), grids=2)) for seed in range(20))
    for seed in (3, 8):
        heard = load_waveform(write(tmp_path / "clip", level * melody(seed), how))
        (match,) = index.search("clip", fingerprint(heard))
        assert match.known == str(seed) and abs(match.shift_seconds) < 0.2


def test_a_part_is_found_with_its_place() -> None:
    index = FingerprintIndex((str(seed), fingerprint(melody(seed), grids=2)) for seed in range(20))
    for seed in range(20):
        later = 1.303 + 0.01 * seed
        (match,) = index.search("part", fingerprint(melody(seed)[round(later * RATE) :]))
        assert match.known == str(seed) and match.shift_seconds == pytest.approx(later, abs=0.05)


def test_one_note_in_common_is_not_the_same_clip() -> None:
    """The middle second of eight is the same."""
    one, other = melody(1, 8.0), melody(2, 8.0)
    other[4 * RATE : 5 * RATE] = one[3 * RATE : 4 * RATE]
    assert list(FingerprintIndex([("one", fingerprint(one, grids=2))]).search("other", fingerprint(other))) == []


def test_other_sounds_are_not_found() -> None:
    index = FingerprintIndex((str(seed), fingerprint(melody(seed), grids=2)) for seed in range(60))
    for seed in range(100, 160):
        assert list(index.search("other", fingerprint(melody(seed)))) == []


def test_steady_sounds_and_silence_have_no_fingerprint_to_go_by() -> None:
    for samples in (np.zeros(RATE, dtype=np.float32), tone(3.0)):
        assert not fingerprint(samples).distinctive


@needs_shared
def test_real_clips(tmp_path: Path) -> None:
    paths = [
        SHARED / "media" / "R9_ZSCveAHg_7s.wav",
        SHARED / "media" / "nasa_13013.mp4",
        SHARED / "mmau" / "test-mini-audios" / "3fe64f3d-282c-4bc8-a753-68f8f6c35652.wav",
    ]
    index = FingerprintIndex((path.name, fingerprint(load_waveform(path), grids=2)) for path in paths)
    for path in paths:
        again = write(tmp_path / "again", 0.2 * load_waveform(path), "mp4 stereo")
        (match,) = index.search("again", fingerprint(load_waveform(again)))
        assert match.known == path.name and match.share > 0.5


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    (tmp_path / "train").mkdir()
    (tmp_path / "bench").mkdir()
    write_mp4(tmp_path / "train" / "aaaaaaaaaaa_000010.mp4", melody(1))
    write_mp4(tmp_path / "train" / "bbbbbbbbbbb_000010.mp4", melody(2))
    soundfile.write(tmp_path / "bench" / "0b9a.wav", 0.3 * melody(2), RATE)
    soundfile.write(tmp_path / "bench" / "77aa.wav", melody(3), RATE)
    soundfile.write(tmp_path / "bench" / "silent.wav", np.zeros(RATE), RATE)
    (tmp_path / "bench" / "broken.wav").write_bytes(b"RIFF")
    return tmp_path


def test_audit_of_folders(folders: Path) -> None:
    found = audit(read_clip_set(str(folders / "train"), folders), read_clip_set(str(folders / "bench"), folders))
    (pair,) = found.shared
    assert isinstance(pair, Shared)
    assert (pair.train, pair.benchmark, pair.how) == ("bbbbbbbbbbb_000010.mp4", "0b9a.wav", "same sound")
    assert {Path(name).name for name in found.unheard} == {"silent.wav", "broken.wav"}


def test_audit_on_the_command_line(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folders / "out" / "shared.jsonl"
    main(["audit", "--train", str(folders / "train"), "--benchmark", str(folders / "bench"), "--output", str(output)])
    out = capsys.readouterr().out
    assert "1 clips of" in out and "0b9a.wav is bbbbbbbbbbb_000010.mp4: same sound" in out
    assert "2 clips could not be compared by sound" in out
    (line,) = output.read_text().splitlines()
    assert json.loads(line)["benchmark"] == "0b9a.wav"
    for text in ("mmau:train", "avqa:test", str(folders / "out")):
        with pytest.raises(UserError, match=r"avqa:val|no audio or video files"):
            main(["audit", "--train", text, "--data", str(folders)])
