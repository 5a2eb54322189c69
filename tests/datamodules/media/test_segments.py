"""Parts of files: the same sound and the same frames as the whole has there, without decoding what lies before."""

import json
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from datamodules.avqa import AVQADataModule
from datamodules.media import sound_segment
from datamodules.media.audio import ClipFolder, WaveformCache, load_segment, load_waveform
from datamodules.media.frame_segment import decode_frame_segment
from datamodules.media.media_files import MediaError
from datamodules.media.segments import Segment
from datamodules.media.video import FrameFolder, FrameSampling, sample_frames
from records.clips import Clip, read_clips
from records.records import RecordError, write_jsonl
from runtime.errors import UserError
from tests.support.dataset_files import avqa_row, write_mp4
from tests.support.media_writer import write_sound

SECONDS = 12


def noise(rate: int, seconds: float = SECONDS) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * rate)).astype(np.float32)


def chords(rate: int) -> np.ndarray:
    """Sound of which codecs keep the waveform; noise they make anew, differently after each jump."""
    time = np.arange(SECONDS * rate) / rate
    tones = [np.sin(2 * np.pi * (f * time + 40 * np.sin(time / n))) for n, f in enumerate((300, 520, 900, 1700), 1)]
    return (0.1 * np.sum(tones, axis=0)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.wav", "pcm_s16le", 44_100),
        ("a.flac", "flac", 44_100),
        ("a.mp4", "aac", 44_100),
        ("a.mkv", "libopus", 48_000),
        ("a.ogg", "libopus", 48_000),
    ],
)
def test_the_samples_are_those_of_the_whole(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    file = write_sound(tmp_path / name, [chords(rate)], codec, rate=rate)
    whole = load_waveform(file)
    for start, end in ((0.0, 2.5), (4.25, 9.0)):
        part = load_segment(Segment(file, start, end))
        assert len(part) == round((end - start) * 16_000)
        there = whole[round(start * 16_000) : round(end * 16_000)]
        lags = range(-16, 17) if name == "a.mkv" else [0]  # Matroska counts in milliseconds
        assert min(np.abs(np.roll(part, lag)[64:-64] - there[64:-64]).max() for lag in lags) < 5e-3


def test_what_lies_before_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_sound(tmp_path / "long.mp4", [noise(16_000, 120)], "aac")
    decoded = []
    true = sound_segment.samples_of
    monkeypatch.setattr(sound_segment, "samples_of", lambda frame: decoded.append(frame.samples) or true(frame))
    load_segment(Segment(file, 100.0, 102.0))
    assert sum(decoded) / 16_000 < 4


def test_sound_that_ends_early_is_short_and_none_is_refused(tmp_path: Path) -> None:
    file = write_sound(tmp_path / "a.wav", [noise(16_000, 3)], "pcm_s16le")
    assert len(load_segment(Segment(file, 1.0, 9.0))) == 32_000
    with pytest.raises(MediaError, match="no sound there"):
        load_segment(Segment(file, 5.0, 9.0))


def write_counting_video(path: Path, frames: int, rate: int = 10, group: int = 25) -> Path:
    """A video whose n-th picture has the grey level 2n."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"g": str(group), "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(frames):
            picture = np.full((32, 32, 3), 2 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_frames_are_those_of_the_part(tmp_path: Path) -> None:
    file = write_counting_video(tmp_path / "a.mp4", 100)
    frames = sample_frames(Segment(file, 4.0, 6.0), FrameSampling(count=4))  # pictures 40 to 59
    assert [round(float(level) / 2) for level in frames.pixels.mean((1, 2, 3))] == pytest.approx(
        [42, 47, 52, 57], abs=1
    )
    assert frames.rate == 2.0
    seen: list[float] = []

    def choose(begins: np.ndarray, rate: float) -> tuple[list[int], list[float]]:
        seen.extend(begins.tolist())
        return [0], [0.0]

    decode_frame_segment(file, choose, 4.0, 6.0)
    assert seen == pytest.approx([n / 10 for n in range(20)])
    with pytest.raises(MediaError, match="no frames between 20 and 25 s"):
        sample_frames(Segment(file, 20.0, 25.0), FrameSampling())


def archived(folder: Path, *files: Path) -> tuple[Path, list[tarfile.TarInfo]]:
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for file in files:
            tar.add(file, file.name)
    with tarfile.open(folder / "00000.tar") as tar:
        return folder / "00000.tar", tar.getmembers()


def test_members_of_archives_are_read_where_they_are(tmp_path: Path) -> None:
    sound, video = tmp_path / "a.wav", write_counting_video(tmp_path / "b.mp4", 30)
    soundfile.write(sound, noise(16_000, 5), 16_000)
    tar, (first, second) = archived(tmp_path, sound, video)
    segment = Segment(tar, 1.0, 3.0, first.name, first.offset_data, first.size)
    np.testing.assert_array_equal(load_segment(segment), load_segment(Segment(sound, 1.0, 3.0)))
    seen = Segment(tar, 1.0, 3.0, second.name, second.offset_data, second.size)
    same = sample_frames(Segment(video, 1.0, 3.0), FrameSampling()).pixels
    np.testing.assert_array_equal(sample_frames(seen, FrameSampling()).pixels, same)
    with pytest.raises(MediaError, match=r"00000\.tar!b\.mp4: there is no audio track"):
        load_segment(seen)
    with pytest.raises(MediaError, match="the archive ends"):
        load_segment(Segment(tar, 1.0, 3.0, "a.wav", first.offset_data, 10**8))


def clip(name: str, path: str, start: float = 1.0, end: float = 3.0) -> Clip:
    return Clip(name, path, start, end)


def test_a_corpus_is_a_folder_of_clips(tmp_path: Path) -> None:
    file = write_sound(tmp_path / "a.mp4", [noise(16_000, 5)], "aac")
    corpus = {"one": clip("one", "a.mp4"), "out": clip("out", "../a.mp4"), "far": clip("far", "/etc/a.mp4")}
    folder = ClipFolder(tmp_path, corpus=corpus)
    np.testing.assert_array_equal(folder.load("one"), load_segment(Segment(file, 1.0, 3.0)))
    assert len(ClipFolder(tmp_path, 0.5, corpus=corpus).load("one")) == 8_000
    for name in ("out", "far"):
        with pytest.raises(MediaError, match="the path of a clip must"):
            folder.load(name)
    with pytest.raises(MediaError, match="no such clip among the 3"):
        folder.load("a.mp4")
    cached = ClipFolder(tmp_path, cache_dir=str(tmp_path / "cache"), corpus=corpus)
    np.testing.assert_array_equal(cached.load("one"), cached.load("one"))
    cache = WaveformCache(tmp_path / "cache")
    assert len({cache.place(Segment(file, start, 3.0)) for start in (0.0, 1.0)} | {cache.place(file)}) == 3


def test_questions_about_clips_of_a_corpus(tmp_path: Path) -> None:
    write_mp4(tmp_path / "films" / "long.mp4", noise(16_000, 6))
    write_jsonl(tmp_path / "clips" / "00000.jsonl", [clip("long_1", "long.mp4", 1.0, 3.0), clip("gone_0", "gone.mp4")])
    rows = [avqa_row(1, video_name="long_1"), avqa_row(2, video_name="gone_0"), avqa_row(3, video_name="long")]
    (tmp_path / "train_qa.json").write_text(json.dumps(rows))
    data = AVQADataModule(
        str(tmp_path), clips=str(tmp_path / "clips"), clips_root=str(tmp_path / "films"), report_dir=str(tmp_path / "r")
    )
    (question,) = data.questions("train")
    assert question.media == "long_1"
    assert data.clip_seconds(question) == 2.0
    assert len(data.load(question)) == 32_000
    told = (tmp_path / "r" / "avqa-train.bad.jsonl").read_text()
    assert "gone.mp4, is missing" in told and "the clip long is not among the clips" in told
    assert len(FrameFolder(data.clips.root, corpus=data.clips.corpus).frames("long_1").pixels) == 8


@pytest.mark.parametrize("name", ["../a", "", "a/b", ".hidden", "a b"])
def test_ids_are_safe_as_names_of_files(name: str) -> None:
    with pytest.raises(RecordError, match="safe as a file's name"):
        clip(name, "a.mp4")


def test_two_clips_of_one_id_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "0.jsonl", [clip("a", "a.mp4"), clip("a", "b.mp4")])
    with pytest.raises(UserError, match="two clips have the id a"):
        read_clips([str(tmp_path)])
    with pytest.raises(RecordError, match="cannot last"):
        clip("a", "a.mp4", 3.0, 3.0)


def test_bytes_of_a_member_do_not_outlive_their_use(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abcdef")
    with Segment(tmp_path / "x", 0, 1, "m", 2, 3).opened() as path:
        assert path.read_bytes() == b"cde"
    assert not path.exists() or path.read_bytes() != b"cde"
