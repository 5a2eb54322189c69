"""AVQA: what students are trained on (Yang et al., 2022)."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datamodules.audio_qa import AudioQADataModule, Role
from datamodules.reading.annotations import AnnotatedQuestion, take, take_label
from datamodules.settings import DataSettings
from runtime.settings import takes

_VIDEO = re.compile(r"\b(video)(s?)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class AVQASettings(DataSettings):
    """AVQA, beside what is said in :class:`.settings.DataSettings`.

    Attributes:
        media_dir: Folder of the clips under ``root``.
        media_suffix: What follows ``video_name`` in a clip's file name: ``.mp4``, or ``.wav`` for extracted audio.
        audio_text: Ask about the "audio" wherever the question says "video".
        predict_split: The split that ``predict`` goes through.
    """

    media_dir: str = "videos"
    media_suffix: str = ".mp4"
    audio_text: bool = True
    predict_split: Literal["train", "val"] = "train"


class AVQADataModule(AudioQADataModule):
    """AVQA with the audio of its videos; validation and test both use the validation split, as the paper does.

    Expected under ``root``, as downloaded::

        train_qa.json
        val_qa.json
        videos/-HG3Omg_89c_000030.mp4    <video_name> + .mp4, clips of VGG-Sound

    A row is ``{"id": 183, "video_name": "-HG3Omg_89c_000030", "video_id": 341, "question_text": "What happened in the
    video?", "multi_choice": ["motorboat", ...], "answer": 1, "question_relation": "View", "question_type": "Which"}``.
    Questions without an answer, such as those of one's own that the teacher answers, can be trained on with its traces.
    Categories are the question types. Videos that no longer exist are reported and left out.
    """

    dataset = "avqa"

    settings: AVQASettings

    @takes(AVQASettings)
    def __init__(self, *root: Any, **settings: Any) -> None:
        """Describe the data, as :class:`AVQASettings` does; nothing is read before ``setup``."""
        self.describe(AVQASettings(*root, **settings))

    def split_of(self, role: Role) -> str | None:
        """Return ``train`` or ``val``."""
        return {"train": "train", "val": "val", "test": "val", "predict": self.settings.predict_split}[role]

    def annotation_file(self, split: str) -> Path:
        """Return ``train_qa.json`` or ``val_qa.json``."""
        return self.root / f"{split}_qa.json"

    def parse_row(self, row: dict[str, Any], split: str) -> AnnotatedQuestion:
        """Return a row in the terms of all datasets.

        Raises:
            RowError: The row lacks something or has something of a wrong type.
        """
        text = take(row, "question_text", str)
        kind = take(row, "question_type", str)
        return AnnotatedQuestion(
            id=str(take(row, "id", int, str)),
            media=(self._media(take(row, "video_name", str)),),
            text=about_audio(text) if self.settings.audio_text else text,
            options=take(row, "multi_choice", list),
            answer=take_label(row, "answer", int),
            category=kind,
            metadata={
                "question_type": kind,
                "question_relation": take(row, "question_relation", str),
                "video_id": row.get("video_id"),
            },
        )

    def _media(self, video: str) -> str:
        """Return how a video's clip is named: a file's path, or its id where the clips are those of a corpus."""
        if self.clips.corpus is not None:
            return video
        return f"{self.settings.media_dir}/{video}{self.settings.media_suffix}"


def about_audio(text: str) -> str:
    """Say "audio" for "video", as R1-AQA does, with the same capitals and in whole words only."""

    def audio(found: re.Match[str]) -> str:
        word, plural = found.groups()
        if word.isupper():
            return f"AUDIO{plural}"
        return f"{'Audio' if word[0].isupper() else 'audio'}{plural}"

    return _VIDEO.sub(audio, text)
