"""A clip of a benchmark never enters a corpus, whatever was done to it; a clip that sounds alike enters once."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from corpus.clips.examination import Examiner
from corpus.clips.inputs import Inputs
from corpus.clips.known_clips import read_known
from corpus.clips.near_duplicates import find_duplicates, same_sound
from corpus.clips.records import Examined, Input
from corpus.clips.settings import ClipSettings
from corpus.clips.stage import ClipStage, read_left_out
from corpus.clips.stored_print import KEYS, from_text, keys_of, to_text
from evaluation.contamination import read_clip_set
from evaluation.fingerprint import fingerprint
from records.clips import read_clips
from records.records import write_jsonl
from tests.support.films import melody, write_film
from tests.support.media_writer import write_sound

RATE = 16_000


def resampled(sound: np.ndarray, rate: int) -> np.ndarray:
    return torchaudio.functional.resample(torch.from_numpy(sound), RATE, rate).numpy()


@pytest.fixture(scope="module")
def examiner(tmp_path_factory: pytest.TempPathFactory) -> Examiner:
    """Its benchmark has three clips: mp4, wav and ogg."""
    folder = tmp_path_factory.mktemp("world")
    bench = folder / "bench"
    write_film(bench / "a.mp4", melody(1, 10))
    soundfile.write(bench / "b.wav", melody(2, 10), RATE)
    write_sound(bench / "c.ogg", [resampled(melody(3, 10), 48_000)], "libopus", rate=48_000)
    known, said = read_known([read_clip_set(str(bench), folder)], folder / "cache")
    assert said == [{"benchmark": str(bench), "clips": 3, "not_compared_by_sound": {}}]
    return Examiner(folder, ClipSettings(), known)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("case", ["another name", "trimmed", "resampled", "louder", "quieter", "opus", "mp3", "inside"])
def test_a_clip_of_a_benchmark_is_found(examiner: Examiner, case: str, seed: int) -> None:
    sound = melody(seed, 10)
    name, rate, codec = f"film-{case.replace(' ', '-')}-{seed}.mp4", RATE, "aac"
    if case == "trimmed":
        sound = sound[round(2.357 * RATE) : round(8.5 * RATE)]
    elif case == "resampled":
        sound, rate = resampled(sound, 44_100), 44_100
    elif case == "louder":
        sound = np.clip(2 * sound, -0.95, 0.95)
    elif case == "quieter":
        sound = 0.1 * sound
    elif case == "opus":
        name, sound, rate, codec = name.replace(".mp4", ".mkv"), resampled(sound, 48_000), 48_000, "libopus"
    elif case == "mp3":
        name, sound, rate, codec = name.replace(".mp4", ".mkv"), resampled(sound, 24_000), 24_000, "libmp3lame"
    elif case == "inside":  # a longer video has it from 4.3 s on, between two of its clips
        sound = np.concatenate([melody(100 + seed, 4.3), sound, melody(200 + seed, 25.7)])
    write_film(examiner.root / name, sound, rate, codec)
    found = examiner.examine(Input(name))
    reasons = [fields["reason"] for fields in found.left_out]
    if case == "inside":
        assert reasons == ["benchmark", "benchmark"]
        assert [fields["start"] for fields in found.clips] == [20.0, 30.0]
    else:
        assert (reasons, found.clips) == (["benchmark"], ())


def test_others_are_not(examiner: Examiner) -> None:
    write_film(examiner.root / "other.mp4", melody(50, 20))
    assert len(examiner.examine(Input("other.mp4")).clips) == 2


def test_names_that_tell_the_same_video_are_found(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "-HG3Omg_89c_000030.wav", np.zeros(RATE, np.float32), RATE)
    known, said = read_known([read_clip_set(str(tmp_path), tmp_path)], tmp_path / "cache")
    assert said[0]["not_compared_by_sound"] == {"-HG3Omg_89c_000030.wav": "too little sound to be told from others"}
    printed = fingerprint(melody(1, 10))
    assert "the audit" not in known.find(Path("x.mp4"), 0, printed)
    assert known.find(Path("-HG3Omg_89c_000025.mp4"), 0.0, printed)
    assert known.find(Path("-HG3Omg_89c_000000.mp4"), 30.0, printed)
    assert not known.find(Path("-HG3Omg_89c_000000.mp4"), 10.0, printed)


def test_prints_are_kept_as_text() -> None:
    printed = fingerprint(melody(1, 10), grids=2)
    again = from_text(to_text(printed))
    np.testing.assert_array_equal(again.pairs, printed.pairs)
    np.testing.assert_array_equal(again.times, printed.times)
    assert (again.frames, again.grids) == (printed.frames, 2)
    assert same_sound(printed, again) and not same_sound(printed, fingerprint(melody(2, 10)))
    assert len(keys_of(printed)) == KEYS and (np.diff(keys_of(printed).astype(object)) > 0).all()
    with pytest.raises(ValueError, match="not a fingerprint"):
        from_text("AAAA")


@pytest.mark.parametrize(("entries", "clips_at_once"), [(1_000_000, 8192), (100, 3)])
def test_of_clips_that_sound_alike_the_first_stays(tmp_path: Path, entries: int, clips_at_once: int) -> None:
    """However little is in memory at once: 100 keys make eight parts."""
    quiet = (0.2 * melody(1, 10)).astype(np.float32)
    sounds = [melody(1, 10), melody(2, 10), quiet, melody(3, 10), melody(2, 10)[37_777:], melody(1, 10), melody(4, 10)]
    lines = [
        Examined(f"{n}.mp4", ({"clip": f"c{n}"},), (to_text(fingerprint(sound)),)) for n, sound in enumerate(sounds)
    ]
    logs = [tmp_path / "0.jsonl", tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    for log, part in zip(logs, (lines[:3], [], lines[3:]), strict=True):
        write_jsonl(log, part)
    found = find_duplicates(logs, tmp_path / "work", entries, clips_at_once)
    assert [found.of(clip) for clip in range(7)][:5] == [None, None, "c0", None, "c1"]
    assert found.of(5) in ("c0", "c2") and found.of(6) is None


def test_copies_in_the_input_enter_once(tmp_path: Path) -> None:
    root = tmp_path / "films"
    write_film(root / "a.mp4", melody(1, 10))
    write_film(root / "b.mp4", 0.5 * melody(1, 10))
    write_film(root / "z" / "c.mkv", resampled(melody(1, 10), 48_000), 48_000, "libopus")
    write_film(root / "d.mp4", melody(2, 10))
    assert ClipStage(Inputs(root), ClipSettings(), tmp_path / "out").run()
    assert [clip.path for clip in read_clips([str(tmp_path / "out" / "clips")]).values()] == ["a.mp4", "d.mp4"]
    left = list(read_left_out(tmp_path / "out"))
    assert [(one.name, one.reason) for one in left] == [("b.mp4", "near-duplicate"), ("z/c.mkv", "near-duplicate")]
    assert left[0].detail.startswith("it sounds like a-")
