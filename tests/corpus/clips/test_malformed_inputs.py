"""What is wrong with files, rows and shards: each is named and counted, and what is right beside it is used."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from corpus.clips import examination
from corpus.clips.examination import Examiner, clip_of, length, spans, spread
from corpus.clips.inputs import Inputs
from corpus.clips.known_clips import KnownClips
from corpus.clips.records import REASONS, Examined, Input
from corpus.clips.settings import ClipSettings
from corpus.clips.stage import ClipStage, read_left_out
from datamodules.media.audio import ClipFolder
from datamodules.media.video import FrameFolder
from records.clips import read_clips
from runtime.errors import UserError
from tests.support.films import melody, write_film, write_shard

RATE = 16_000
SETTINGS = ClipSettings(seconds=2, least_seconds=1.5, most_of_a_file=3)


def examined(root: Path, one: Input, settings: ClipSettings = SETTINGS) -> Examined:
    return Examiner(root, settings, KnownClips.none()).examine(one)


def clipped() -> np.ndarray:
    return np.clip(40 * melody(5, 2), -1, 1)


def turned(path: Path) -> None:
    plain = write_film(path.with_name("plain.mp4"), melody(6, 2))
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    plain.unlink()


CASES: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "good.mp4": (lambda path: write_film(path, melody(0, 2)), None),
    "no-audio.mp4": (lambda path: write_film(path, None, seconds=2), "no audio track"),
    "no-picture.mp4": (lambda path: write_film(path, melody(1, 2), pictures=False), "no picture"),
    "silent.mp4": (lambda path: write_film(path, np.zeros(2 * RATE, np.float32)), "silence"),
    "quiet.mp4": (lambda path: write_film(path, 0.02 * melody(2, 2)), "too quiet"),
    "clipped.mp4": (lambda path: write_film(path, clipped()), "clipped"),
    "still.mp4": (lambda path: write_film(path, melody(3, 2), still=True), "no motion"),
    "short.mp4": (lambda path: write_film(path, melody(4, 1)), "too short"),
    "steady.mp4": (
        lambda path: write_film(path, (0.3 * np.sin(np.arange(2 * RATE) / 5)).astype(np.float32)),
        "indistinct",
    ),
    "empty.mp4": (lambda path: path.write_bytes(b""), "unreadable"),
    "page.mp4": (lambda path: path.write_text("<!DOCTYPE html><p>Not found"), "unreadable"),
    "zeros.mp4": (lambda path: path.write_bytes(bytes(5000)), "unreadable"),
    "noise.mp4": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(50_000)), "unreadable"),
    "list.mp4": (lambda path: path.write_text("#EXTM3U\n/etc/passwd\n"), "unreadable"),
    "gone.mp4": (lambda path: None, "unreadable"),
    "turned.mp4": (turned, None),
    "ten-bit.mkv": (lambda path: write_film(path, melody(8, 2), RATE, "flac"), None),
    "early-end.mp4": (lambda path: write_film(path, melody(9, 0.5), seconds=2), "wrong duration"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file(tmp_path: Path, name: str) -> None:
    write, reason = CASES[name]
    write(tmp_path / name)
    found = examined(tmp_path, Input(name))
    assert [fields["reason"] for fields in found.left_out] == ([reason] if reason else [])
    assert len(found.clips) == (0 if reason else 1)
    for fields in found.left_out:
        assert fields["reason"] in REASONS and fields["name"] == name and fields["detail"]
        assert "/proc/" not in fields["detail"]


def test_a_file_that_breaks_off(tmp_path: Path) -> None:
    whole = write_film(tmp_path / "a.mkv", melody(0, 8), codec="flac").read_bytes()
    (tmp_path / "a.mkv").write_bytes(whole[: len(whole) // 2])
    found = examined(tmp_path, Input("a.mkv"))
    assert len(found.clips) in (1, 2) and [fields["reason"] for fields in found.left_out][-1] == "wrong duration"
    for fields in found.clips:
        assert fields["end"] <= 4.2


def test_a_very_long_video_is_not_decoded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three hours of which 45 s have sound that was written: the rest would take minutes to write and to decode."""
    monkeypatch.setattr(examination, "length", lambda path: 3 * 3600.0)
    write_film(tmp_path / "a.mp4", melody(0, 4))
    heard: list[float] = []
    true = examination.load_segment
    monkeypatch.setattr(examination, "load_segment", lambda part: heard.append(part.start) or true(part))
    found = examined(tmp_path, Input("a.mp4"))
    assert heard == [1800.0]  # the middle of the first third of 5400 clips; there is no sound, so none behind it either
    (over, wrong) = found.left_out
    assert (over["reason"], over["count"]) == ("beyond the limit of a file", 5397)
    assert wrong["reason"] == "wrong duration"


def test_clips_of_a_long_video(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mp4", melody(0, 21.7))
    found = examined(tmp_path, Input("a.mp4"), ClipSettings(seconds=2, least_seconds=1.5, most_of_a_file=100))
    assert [fields["start"] for fields in found.clips] == [2.0 * n for n in range(11)]
    assert found.clips[-1]["end"] == pytest.approx(21.7, abs=0.1)
    assert len({fields["clip"] for fields in found.clips}) == 11
    few = examined(tmp_path, Input("a.mp4", 4.0, 11.0))
    assert [(fields["start"], fields["end"]) for fields in few.clips] == [(4.0, 6.0), (6.0, 8.0), (8.0, 10.0)]
    over = examined(tmp_path, Input("a.mp4", 18.0, 60.0))
    assert [fields["reason"] for fields in over.left_out] == ["wrong duration"] and len(over.clips) == 2


def test_spans_and_spread() -> None:
    settings = ClipSettings()
    assert spans(0, 9.98, settings) == [(0, 9.98)]
    assert spans(0, 25.0, settings) == [(0, 10), (10, 20), (20, 25)]
    assert spans(3, 24.9, settings) == [(3, 13), (13, 23)]
    assert spans(0, 4.9, settings) == [] and spans(5, 3, settings) == []
    assert spread(5, 5) == [0, 1, 2, 3, 4] and spread(100, 4) == [12, 37, 62, 87]


def test_ids_are_stable_and_safe() -> None:
    clip = clip_of(Input("a b/Ünïcode — film!.mp4", license="CC0", source="x"), 10.0, 20.0)
    assert clip.clip == clip_of(Input("a b/Ünïcode — film!.mp4"), 10.0, 20.0).clip
    assert clip.clip.endswith("_000010000_000020000") and clip.clip.isascii()
    assert clip.clip != clip_of(Input("b/Ünïcode — film!.mp4"), 10.0, 20.0).clip
    assert (clip.license, clip.source) == ("CC0", "x")


def run(output: Path, inputs: Inputs, settings: ClipSettings = SETTINGS) -> tuple[list[str], Counter[str]]:
    assert ClipStage(inputs, settings, output).run()
    clips = read_clips([str(output / "clips")])
    report = json.loads((output / "report.json").read_text())
    left = Counter()
    for one in read_left_out(output):
        left[one.reason] += one.count
    assert report["left_out"] == left and report["clips"] == len(clips)
    return [clip.member or clip.path for clip in clips.values()], left


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_rows_of_a_manifest(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "films"
    for number in range(3):
        write_film(root / f"{number}.mp4", melody(number, 2))
    (tmp_path / "secret.mp4").write_bytes((root / "0.mp4").read_bytes())
    (root / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    paths = ["0.mp4", "/etc/passwd", "../secret.mp4", "link.mp4", "a/../../secret.mp4", "1.mp4", "1.mp4", "2.mp4"]
    manifest = tmp_path / f"manifest.{kind}"
    if kind == "csv":
        lines = ["path,start,end,license,source", *(f"{path},0,2,CC-BY,x" for path in paths)]
        lines += [",0,2,,", "0.mp4,x,2,,", "0.mp4,2,1,,"]
    else:
        rows = [{"path": path, "start": 0, "end": 2, "license": "CC-BY", "source": "x"} for path in paths]
        lines = [*map(json.dumps, rows), "{", "[1]", json.dumps({"path": "0.mp4", "start": "x"})]
    manifest.write_text("\n".join(lines) + "\n")
    files, left = run(tmp_path / "out", Inputs(root, manifest))
    assert files == ["0.mp4", "1.mp4", "2.mp4"]
    assert left == {"unsafe path": 4, "malformed row": 3, "near-duplicate": 1}
    assert next(iter(read_clips([str(tmp_path / "out" / "clips")]).values())).license == "CC-BY"
    named = {one.name for one in read_left_out(tmp_path / "out") if one.reason == "unsafe path"}
    assert named == {f"manifest.{kind}:{row + (kind == 'csv')}" for row in (2, 3, 4, 5)}


def test_samples_of_shards(tmp_path: Path) -> None:
    films = [write_film(tmp_path / f"{n}.mp4", melody(n, 2)) for n in range(6)]
    facts = {"url": "https://example.org/v", "license": "CC0", "duration": 3600}
    root = tmp_path / "shards"
    first = [("0000.mp4", films[0]), ("0000.json", facts), ("0000.txt", b"words")]
    lost = [("0001.json", {"status": "failed_to_download", "error_message": "HTTP 404"})]
    bad = [("0002.mp4", films[1]), ("0002.json", b"{"), ("0003.mp4", films[2]), ("0000.mp4", films[3])]
    write_shard(root / "00000.tar", [*first, *lost, *bad])
    torn = write_shard(root / "00001.tar", [("1000.mp4", films[4]), ("1001.mp4", films[5])])
    torn.write_bytes(torn.read_bytes()[: films[4].stat().st_size + 2000])
    (root / "00002.tar").write_bytes(b"no archive" * 100)
    (root / "00003.tar").write_bytes(b"")
    middle = write_shard(root / "00004.tar", [("2000.json", {}), ("2001.json", {}), ("2002.json", {})])
    damaged = bytearray(middle.read_bytes())
    damaged[1024:1536] = b"\xff" * 512
    middle.write_bytes(bytes(damaged))
    members, left = run(tmp_path / "out", Inputs(root, shards="*.tar"))
    assert members == ["0000.mp4", "0002.mp4", "0003.mp4", "1000.mp4"]
    assert left == {"no video in sample": 2, "malformed row": 1, "duplicate key": 1, "torn shard": 4}
    details = {one.name: one.detail for one in read_left_out(tmp_path / "out")}
    assert "HTTP 404" in details["00000.tar!0001"] and "1001.mp4 is not there" in details["00001.tar"]
    corpus = read_clips([str(tmp_path / "out" / "clips")])
    clip = next(iter(corpus.values()))
    assert (clip.source, clip.license, clip.path) == ("https://example.org/v", "CC0", "00000.tar")
    assert len(ClipFolder(root, corpus=corpus).load(clip.clip)) == pytest.approx(2 * RATE, abs=800)
    assert len(FrameFolder(root, corpus=corpus).frames(clip.clip).pixels) == 8


def test_what_cannot_be_begun_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        Inputs(tmp_path / "none")
    with pytest.raises(UserError, match="the manifest is missing"):
        Inputs(tmp_path, tmp_path / "none.csv")
    with pytest.raises(UserError, match="use one of them"):
        Inputs(tmp_path, tmp_path, "*.tar")
    with pytest.raises(UserError, match="nothing to make clips from"):
        ClipStage(Inputs(tmp_path), SETTINGS, tmp_path / "out").run()
    with pytest.raises(UserError, match="a clip lasts 1 to 600 seconds"):
        ClipSettings(seconds=0)
    with pytest.raises(UserError, match="between"):
        ClipSettings(least_seconds=11)


def test_length_is_what_the_container_says(tmp_path: Path) -> None:
    assert length(write_film(tmp_path / "a.mp4", melody(0, 3))) == pytest.approx(3, abs=0.2)
