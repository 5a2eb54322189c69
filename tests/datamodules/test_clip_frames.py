"""Clips without questions, as the writer of questions is shown them."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.clip_frames import ClipFramesDataModule
from datamodules.media.video import FrameFolder
from records.clips import Clip
from records.records import write_jsonl
from runtime.errors import UserError
from tests.support.dataset_files import tone, write_mp4


def test_the_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden"):
        write_mp4(tmp_path / "videos" / f"{name}.mp4", tone(1.0))
    data = ClipFramesDataModule(str(tmp_path), limit=2)
    data.setup("predict")
    assert [(one.id, one.media) for one in data.questions("predict")] == [("a", "videos/a.mp4"), ("b", "videos/b.mp4")]


def test_the_clips_of_a_corpus(tmp_path: Path) -> None:
    write_mp4(tmp_path / "films" / "film.mp4", tone(4.0))  # its pictures become lighter
    clips = [Clip("late", "film.mp4", 3.0, 4.0), Clip("early", "film.mp4", 0.0, 1.0)]
    write_jsonl(tmp_path / "clips" / "rank-00000.jsonl", clips)
    settings = {"clips": str(tmp_path / "clips"), "clips_root": str(tmp_path / "films")}
    data = ClipFramesDataModule(str(tmp_path), **settings)
    data.setup("predict")
    assert [one.id for one in data.questions("predict")] == ["early", "late"]
    assert isinstance(data.clips, FrameFolder)
    early, late = (data.clips.frames(one.media).pixels for one in data.questions("predict"))
    assert float(np.mean(early)) + 10 < float(np.mean(late))


def test_other_stages_have_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is for predict"):
        ClipFramesDataModule(str(tmp_path)).setup("fit")
    with pytest.raises(UserError, match="cannot be read"):
        ClipFramesDataModule(str(tmp_path)).setup("predict")
