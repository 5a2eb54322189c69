"""MUSIC-AVQA: questions about performances (Li et al., 2022), asked with the sound alone."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datamodules.audio_qa import AudioQADataModule, Role
from datamodules.avqa import about_audio
from datamodules.reading.annotations import AnnotatedQuestion, RowError, take, take_label
from datamodules.settings import DataSettings
from runtime.settings import takes

INSTRUMENTS = (
    "accordion",
    "acoustic guitar",
    "bagpipe",
    "banjo",
    "bassoon",
    "cello",
    "clarinet",
    "congas",
    "drum",
    "electric bass",
    "erhu",
    "flute",
    "guzheng",
    "piano",
    "pipa",
    "saxophone",
    "suona",
    "trumpet",
    "tuba",
    "ukulele",
    "violin",
    "xylophone",
)
NUMBERS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "more than ten",
)
YES_NO = ("yes", "no")
PLACES = ("left", "middle", "right")
WHICH_SOUNDS = (*PLACES, "simultaneously")
SCENERY = ("indoor", "outdoor")

_PLACEHOLDER = re.compile(r"<\w+>")


@dataclass(frozen=True, kw_only=True)
class MusicAVQASettings(DataSettings):
    """MUSIC-AVQA, beside what is said in :class:`.settings.DataSettings`.

    Attributes:
        subset: ``non-visual`` leaves the purely visual questions out (6,758 remain, the paper's 7k); ``all`` is all
            9,185.
        annotations: The annotation file under ``root``.
        media_dirs: Folders under ``root`` in which a clip is looked for; null is ``videos``,
            ``MUSIC-AVQA-videos-Real``, ``MUSIC-AVQA-videos-Synthetic``.
        media_suffix: What follows ``video_id`` in a clip's file name.
        audio_text: Ask about the "audio" wherever the question says "video".
        instruments: The options of questions for an instrument; null takes the dataset's 22.
    """

    subset: Literal["non-visual", "all"] = "non-visual"
    annotations: str = "avqa-test.json"
    media_dirs: list[str] | None = None
    media_suffix: str = ".mp4"
    audio_text: bool = False
    instruments: list[str] | None = None


class MusicAVQADataModule(AudioQADataModule):
    r"""The test set of MUSIC-AVQA; validation, test and prediction go through the same file.

    Expected under ``root``, as downloaded (the videos come as two archives, which may stay apart)::

        avqa-test.json
        videos/00000093.mp4                       or
        MUSIC-AVQA-videos-Real/00000093.mp4
        MUSIC-AVQA-videos-Synthetic/sa00008442.mp4

    A row is ``{"video_id": "00000093", "question_id": 12, "type": "[\"Audio\", \"Counting\"]", "question_content":
    "Is there a <Object> sound?", "templ_values": "[\"flute\"]", "question_deleted": 0, "anser": "yes"}``. Categories
    are Existential, Counting, Comparative, Temporal and Location. Answers are open in this dataset; the options here
    are all answers that the question's kind admits, in a fixed order. 55 questions of the test set are in it twice with
    different answers; the second has ``/2`` behind its id. Questions without an answer can be tested and predicted.
    """

    dataset = "music_avqa"
    number_repeated_ids = True
    left_aside = "purely visual"

    settings: MusicAVQASettings

    @takes(MusicAVQASettings)
    def __init__(self, *root: Any, **settings: Any) -> None:
        """Describe the data, as :class:`MusicAVQASettings` does; nothing is read before ``setup``."""
        chosen = MusicAVQASettings(*root, **settings)
        self.describe(chosen)
        self.media_dirs = chosen.media_dirs or ["videos", "MUSIC-AVQA-videos-Real", "MUSIC-AVQA-videos-Synthetic"]
        self.instruments = tuple(chosen.instruments) if chosen.instruments else INSTRUMENTS

    def split_of(self, role: Role) -> str | None:
        """Return ``test``; nothing is for training."""
        return None if role == "train" else "test"

    def annotation_file(self, split: str) -> Path:
        """Return the annotation file."""
        return self.root / self.settings.annotations

    def parse_row(self, row: dict[str, Any], split: str) -> AnnotatedQuestion | None:
        """Return a row in the terms of all datasets, or None when it is not in the subset.

        Raises:
            RowError: The row lacks something or has something of a wrong type.
        """
        modality, category = _texts(row, "type", 2)
        if self.settings.subset == "non-visual" and modality == "Visual":
            return None
        template = take(row, "question_content", str)
        options = answers_of(template, self.instruments)
        text = fill_template(template, _texts(row, "templ_values"))
        video = take(row, "video_id", str)
        answer = take_label(row, "anser" if "anser" in row else "answer", str)
        return AnnotatedQuestion(
            id=str(take(row, "question_id", int, str)),
            media=tuple(f"{folder}/{video}{self.settings.media_suffix}" for folder in self.media_dirs),
            text=about_audio(text) if self.settings.audio_text else text,
            options=list(options),
            answer=None if answer is None else answer.replace("_", " "),
            category=category,
            metadata={"modality": modality, "template": template},
        )


def fill_template(template: str, values: list[str]) -> str:
    """Put the values into the placeholders, one after the other, and give the text plain punctuation.

    Raises:
        RowError: There are more or fewer values than placeholders.
    """
    places = _PLACEHOLDER.findall(template)
    if len(places) != len(values):
        raise RowError("template", f"{template!r} has {len(places)} placeholders, but there are {len(values)} values")
    filling = iter(values)
    text = _PLACEHOLDER.sub(lambda _: next(filling).replace("_", " "), template)
    return text.replace("\N{FULLWIDTH QUESTION MARK}", "?").strip()


def answers_of(template: str, instruments: tuple[str, ...] = INSTRUMENTS) -> tuple[str, ...]:
    """Return the answers that a kind of question admits.

    Args:
        template: The question before it was filled in.
        instruments: The answers when it asks for an instrument.

    Raises:
        RowError: The question is of none of the dataset's kinds.
    """
    first = template.split(maxsplit=1)[0].lower() if template.strip() else ""
    if first == "how":
        return NUMBERS
    if first in ("is", "are"):
        return YES_NO
    if first == "where":
        return SCENERY if "performance" in template else PLACES
    if template.startswith("Which <Object> makes the sound"):
        return WHICH_SOUNDS
    if first in ("what", "which"):
        return instruments
    raise RowError("unknown question", f"{template!r} is of none of the kinds of questions of MUSIC-AVQA")


def _texts(row: dict[str, Any], key: str, length: int | None = None) -> list[str]:
    """Return a list of texts that is JSON inside of text."""
    text = take(row, key, str)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise RowError("wrong type", f"{key!r} must be JSON inside of text, found {text!r:.100}") from None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise RowError("wrong type", f"{key!r} must be a list of texts, found {text:.100}")
    if length is not None and len(values) != length:
        raise RowError("wrong type", f"{key!r} must have {length} texts, found {text:.100}")
    return values
