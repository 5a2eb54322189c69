"""Probes: silence, another clip, noise of the same level, another order of the options."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datamodules.avqa import AVQADataModule
from datamodules.avqa_video import AVQAVideoDataModule
from datamodules.media.audio import ClipFolder
from datamodules.media.probes import ProbedClips, ProbeName, derangement, shuffle_options
from datamodules.trace_clips import TraceClipsDataModule
from records.records import Question
from runtime.errors import UserError
from tests.support.dataset_files import avqa_row, tone

QUESTION = Question("avqa/val/1", "avqa", "a.wav", "What?", ("dog", "cat", "rain", "wind"), 1, "Which")


@pytest.fixture
def folder(tmp_path: Path) -> ClipFolder:
    soundfile.write(tmp_path / "a.wav", tone(0.5), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", tone(0.75, 880.0), 16_000, subtype="FLOAT")
    return ClipFolder(tmp_path)


def test_silence_keeps_the_length(folder: ClipFolder) -> None:
    heard = ProbedClips(folder, "silence").load("a.wav")
    assert heard.shape == (8000,) and heard.dtype == np.float32 and not heard.any()


def test_noise_keeps_length_and_level(folder: ClipFolder) -> None:
    probed = ProbedClips(folder, "noise")
    heard = probed.load("a.wav")
    assert heard.shape == (8000,) and heard.dtype == np.float32
    # a sine of amplitude 0.4 has the root mean square 0.4 / sqrt(2)
    assert np.sqrt(np.mean(heard.astype(float) ** 2)) == pytest.approx(0.4 / 2**0.5, rel=1e-4)
    spectrum = np.abs(np.fft.rfft(heard)) ** 2
    assert spectrum.max() < 0.01 * spectrum.sum()  # no tone is left
    assert np.array_equal(heard, probed.load("a.wav"))
    assert not np.array_equal(heard[:100], probed.load("b.wav")[:100])


def test_noise_for_a_silent_clip_is_silence(folder: ClipFolder) -> None:
    soundfile.write(folder.root / "c.wav", np.zeros(8000), 16_000)
    assert not ProbedClips(folder, "noise").load("c.wav").any()


def test_swap_gives_another_clip(folder: ClipFolder) -> None:
    probed = ProbedClips(folder, "swap", derangement(["a.wav", "b.wav"]))
    assert np.array_equal(probed.load("a.wav"), folder.load("b.wav"))
    assert np.array_equal(probed.load("b.wav"), folder.load("a.wav"))


@pytest.mark.parametrize("count", [2, 3, 10, 1000])
def test_derangement(count: int) -> None:
    names = [f"{number}.wav" for number in range(count)]
    others = derangement([*names, *names])
    assert others.keys() == set(names) == set(others.values())
    assert all(name != other for name, other in others.items())
    assert others == derangement(reversed(names))  # the order in which clips are named does not matter


def test_one_clip_cannot_be_swapped() -> None:
    with pytest.raises(UserError, match="no second clip"):
        derangement(["a.wav", "a.wav"])


def test_the_answer_follows_the_options() -> None:
    places = Counter()
    for seed in range(400):
        shuffled = shuffle_options(QUESTION, seed)
        assert sorted(shuffled.options) == sorted(QUESTION.options)
        assert shuffled.answer_text == "cat"
        assert shuffled == shuffle_options(QUESTION, seed)
        places[shuffled.answer] += 1
    assert places.keys() == {0, 1, 2, 3} and min(places.values()) > 70  # 100 expected, standard deviation 8.7


def test_orders_differ_between_questions() -> None:
    orders = {shuffle_options(Question(**{**vars(QUESTION), "id": f"avqa/val/{n}"}), 0).options for n in range(100)}
    assert len(orders) == 24


@pytest.mark.parametrize("setting", [{"probe": "silence"}, {"option_order": 0}])
def test_stages_that_are_no_benchmark_refuse_probes(tmp_path: Path, setting: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="AVQAVideoDataModule has neither"):
        AVQAVideoDataModule(str(tmp_path), **setting)
    with pytest.raises(UserError, match="TraceClipsDataModule has neither"):
        TraceClipsDataModule(str(tmp_path), traces=str(tmp_path), **setting)


@pytest.mark.parametrize("probe", ["silence", "swap", "noise", None])
def test_only_evaluation_is_probed(
    write_avqa: Callable[..., Path], processor_dir: str, probe: ProbeName | None
) -> None:
    root = write_avqa([avqa_row(n) for n in range(2)], [avqa_row(n) for n in (0, 4, 8)])
    settings = {"processor": processor_dir, "num_workers": 0, "batch_size": 2, "report_dir": str(root / "report")}
    data = AVQADataModule(str(root), probe=probe, option_order=3, **settings)
    plain = AVQADataModule(str(root), **settings)
    for loader in ("val_dataloader", "test_dataloader"):
        heard, true = (
            [pair for batch in getattr(d, loader)() for pair in zip(batch.questions, batch.waveforms, strict=True)]
            for d in (data, plain)
        )
        assert [q.id for q, _ in heard] == [q.id for q, _ in true]
        assert [q.answer_text for q, _ in heard] == [q.answer_text for q, _ in true]
        assert any(q.options != p.options for (q, _), (p, _) in zip(heard, true, strict=True))
        assert {q.metadata.get("probe") for q, _ in heard} == {probe}
        for (_, waveform), (_, clip) in zip(heard, true, strict=True):
            if probe == "silence":
                assert not waveform.any() and len(waveform) == len(clip)
            else:
                assert np.array_equal(waveform, clip) is (probe is None)
        if probe == "swap":
            clips = [clip for _, clip in true]
            assert all(any(np.array_equal(waveform, clip) for clip in clips) for _, waveform in heard)
    (trained,) = data.train_dataloader()
    (known,) = plain.train_dataloader()
    assert [q.options for q in trained.questions] == [q.options for q in known.questions]
    assert all(map(np.array_equal, trained.waveforms, known.waveforms))
    assert data.questions("val")[0].metadata.get("probe") is None
