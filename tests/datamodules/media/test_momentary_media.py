"""What is the machine's fault says nothing about a clip: files run out, a disk or a network's file system stalls."""

import contextlib
import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from datamodules.batching.clip_requests import RequestSettings, clip_request
from datamodules.batching.items import silent_clip, traced_clip
from datamodules.media.audio import ClipFolder, WaveformCache, load_waveform
from datamodules.media.media_files import MediaError, MomentaryMediaError, check_media
from datamodules.media.media_index import MediaIndex
from datamodules.media.video import FrameFolder, FrameSampling, load_frames
from datamodules.prompts.questions import DIRECT
from records.records import Question, Trace
from tests.support.dataset_files import tone, write_mp4

PASSING = [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT, errno.ENOTCONN]
QUESTION = Question("q", "avqa", "a.mp4", "What?", ("a dog", "rain"), 0, "Which")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_mp4(folder / "a.mp4", tone(1.0))
    soundfile.write(folder / "a.wav", tone(1.0), 16_000)
    return folder


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # those that are open stay so
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_open_files_have_run_out(root: Path) -> None:
    sampling = FrameSampling()
    loads: list[Callable[[], Any]] = [
        lambda: load_waveform(root / "a.wav"),
        lambda: load_waveform(root / "a.mp4"),
        lambda: load_frames(root / "a.mp4", sampling),
    ]
    for load in loads:
        load()
        with no_more_files(), pytest.raises(MomentaryMediaError, match="Too many open files"):
            load()
        load()


@pytest.mark.parametrize("number", PASSING)
def test_a_file_system_that_stalls(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int) -> None:
    def stall(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    cache, index = WaveformCache(tmp_path), MediaIndex(tmp_path / "index.jsonl", load_waveform)
    with monkeypatch.context() as stalled:
        stalled.setattr(os, "stat", stall)
        for load in (check_media, cache.load):
            with pytest.raises(MomentaryMediaError, match=os.strerror(number)):
                load(root / "a.wav")
        said = index.check([root / "a.wav"])
    assert os.strerror(number) in str(said[root / "a.wav"])
    assert index.check([root / "a.wav"]) == {root / "a.wav": None}, "it is looked at again"
    with monkeypatch.context() as stalled:
        stalled.setattr(Path, "open", stall)
        with pytest.raises(MomentaryMediaError, match=os.strerror(number)):
            check_media(root / "a.wav")


def test_what_is_not_there_or_not_ours_is_not_momentary(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "circle").symlink_to(root / "circle")
    for name in ("none.wav", "circle", "a.wav/none"):
        with pytest.raises(MediaError, match="the file is missing") as found:
            check_media(root / name)
        assert not isinstance(found.value, MomentaryMediaError)
    with pytest.raises(MediaError, match="the file is missing"):
        WaveformCache(root).load(root / "none.wav")

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(MediaError, match=r"cannot be read \(Permission denied\)") as found:
        check_media(root / "a.wav")
    assert not isinstance(found.value, MomentaryMediaError)


class Stalling:
    """A container whose packets come until its disk does not answer any more."""

    def __init__(self, container: Any, after: int) -> None:
        self.container = container
        self.after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self.container, name)

    def __enter__(self) -> "Stalling":
        return self

    def __exit__(self, *_: Any) -> None:
        self.container.close()

    def demux(self, stream: Any) -> Iterator[Any]:
        for number, packet in enumerate(self.container.demux(stream)):
            if number == self.after:
                raise av.FFmpegError(errno.EIO, "Input/output error")
            yield packet


def test_a_disk_that_stops_in_the_middle_gives_no_half_clip(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = av.open
    monkeypatch.setattr(av, "open", lambda *args, **named: Stalling(whole(*args, **named), 5))
    for load in (load_waveform, lambda path: load_frames(path, FrameSampling())):
        with pytest.raises(MomentaryMediaError, match="Input/output error"):
            load(root / "a.mp4")


def test_a_plain_file_that_is_read_in_part_is_read_by_the_other_decoder(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda self, *args, **named: read(self, *args, **named)[:1_000])
    assert len(load_waveform(root / "a.wav")) == 16_000
    assert np.abs(load_waveform(root / "a.wav") - tone(1.0)).max() < 1e-4


def test_every_stage_is_told_which_it_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sounds, frames = ClipFolder(root), FrameFolder(root, sampling=FrameSampling())
    trace = Trace("q", 0, "It barks.", "a dog", "t")

    def items() -> list[tuple[bool, bool]]:
        made: list[Any] = [
            traced_clip(QUESTION, {"q": [trace]}, sounds, "pcm16"),
            silent_clip(QUESTION, frames),
            clip_request(QUESTION, DIRECT, RequestSettings(), sounds, frames),
        ]
        return [(item.error is not None, item.lasting) for item in made]

    with no_more_files():
        assert items() == 3 * [(True, False)]
    (root / "a.mp4").rename(root / "b.mp4")
    try:
        assert items() == 3 * [(True, True)]
    finally:
        (root / "b.mp4").rename(root / "a.mp4")
    assert items() == 3 * [(False, True)]
