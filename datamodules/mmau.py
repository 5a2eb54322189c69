"""MMAU: sound, music and speech (Sakshi et al., 2024)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.audio_qa import AudioQADataModule, Role
from datamodules.reading.annotations import AnnotatedQuestion, stripped, take, take_label
from datamodules.settings import DataSettings
from records.valid_text import valid_text
from runtime.settings import takes


@dataclass(frozen=True, kw_only=True)
class MMAUSettings(DataSettings):
    """MMAU, beside what is said in :class:`.settings.DataSettings`.

    Attributes:
        annotations: The annotation file under ``root``; ``mmau-test.json`` makes ids such as ``mmau/test/<id>``.
    """

    annotations: str = "mmau-test-mini.json"


class MMAUDataModule(AudioQADataModule):
    """MMAU test-mini (v05.15.25), or the full test set; validation, test and prediction go through the same file.

    Expected under ``root``, as downloaded::

        mmau-test-mini.json
        test-mini-audios/3fe64f3d-282c-4bc8-a753-68f8f6c35652.wav

    A row is ``{"id": "3fe6...", "audio_id": "./test-mini-audios/3fe6....wav", "question": "...", "choices": ["Man",
    ...], "answer": "Man", "task": "sound", "category": "Reasoning", "sub-category": "...", "difficulty": "medium",
    ...}``. Categories are the tasks: sound, music, speech. Some rows list a choice twice, which is kept once. The full
    test set comes without answers: its questions can be tested and predicted, for ``python -m evaluation official``.
    """

    dataset = "mmau"

    settings: MMAUSettings

    @takes(MMAUSettings)
    def __init__(self, *root: Any, **settings: Any) -> None:
        """Describe the data, as :class:`MMAUSettings` does; nothing is read before ``setup``."""
        self.describe(MMAUSettings(*root, **settings))

    def split_of(self, role: Role) -> str | None:
        """Return ``test-mini``, or what another annotation file is called; nothing is for training."""
        return None if role == "train" else valid_text(Path(self.settings.annotations).stem.removeprefix("mmau-"))

    def annotation_file(self, split: str) -> Path:
        """Return the annotation file."""
        return self.root / self.settings.annotations

    def parse_row(self, row: dict[str, Any], split: str) -> AnnotatedQuestion:
        """Return a row in the terms of all datasets.

        Raises:
            RowError: The row lacks something or has something of a wrong type.
        """
        category = take(row, "category", str, list)
        return AnnotatedQuestion(
            id=row_id(row),
            media=(take(row, "audio_id", str),),
            text=take(row, "question", str),
            options=take(row, "choices", list),
            answer=label_of(row),
            category=take(row, "task", str),
            metadata={
                "category": ", ".join(str(part) for part in category if isinstance(part, (str, int)))
                if isinstance(category, list)
                else category,
                "sub_category": row.get("sub-category"),
                "difficulty": row.get("difficulty"),
                "source": row.get("dataset"),
            },
        )


def label_of(row: dict[str, Any]) -> str | None:
    """Return the text of the right choice, or None where the row does not tell; a number is the choice, not its place.

    Raises:
        RowError: The answer is neither text nor number.
    """
    answer = take_label(row, "answer", str, int, float)
    return None if answer is None else str(answer)


def row_id(row: dict[str, Any]) -> str:
    """Return the id of a row of MMAU as it stands in the ids of questions.

    Raises:
        RowError: There is none.
    """
    return stripped(str(take(row, "id", str, int)))
