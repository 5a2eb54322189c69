"""MMAU test-mini: sound, music and speech (Sakshi et al., 2024)."""

from pathlib import Path
from typing import Any

from datamodules.annotations import AnnotatedQuestion, take, take_label
from datamodules.audio_qa import AudioQADataModule, Role


class MMAUDataModule(AudioQADataModule):
    """MMAU test-mini (v05.15.25); validation, test and prediction go through the same file.

    Expected under ``root``, as downloaded::

        mmau-test-mini.json
        test-mini-audios/3fe64f3d-282c-4bc8-a753-68f8f6c35652.wav

    A row is ``{"id": "3fe6...", "audio_id": "./test-mini-audios/3fe6....wav", "question": "...", "choices": ["Man",
    ...], "answer": "Man", "task": "sound", "category": "Reasoning", "sub-category": "...", "difficulty": "medium",
    ...}``. Categories are the tasks: sound, music, speech. Some rows list a choice twice, which is kept once.
    """

    dataset = "mmau"

    def __init__(self, root: str, annotations: str = "mmau-test-mini.json", **settings: Any) -> None:
        """Describe the data; nothing is read before ``setup``.

        Args:
            root: Folder with the dataset as downloaded.
            annotations: The annotation file under ``root``.
            **settings: What all datasets have in common: see AudioQADataModule.
        """
        super().__init__(root=root, **settings)
        self.annotations = annotations

    def split_of(self, role: Role) -> str | None:
        """Return ``test-mini``; nothing is for training."""
        return None if role == "train" else "test-mini"

    def annotation_file(self, split: str) -> Path:
        """Return the annotation file."""
        return self.root / self.annotations

    def parse_row(self, row: dict[str, Any], split: str) -> AnnotatedQuestion:
        """Return a row in the terms of all datasets.

        Raises:
            RowError: The row lacks something or has something of a wrong type.
        """
        category = take(row, "category", str, list)
        answer = take_label(row, "answer", str, int, float)
        return AnnotatedQuestion(
            id=row_id(row),
            media=(take(row, "audio_id", str),),
            text=take(row, "question", str),
            options=take(row, "choices", list),
            answer=None if answer is None else str(answer),  # numbers are texts here, as numbers in choices are
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


def row_id(row: dict[str, Any]) -> str:
    """Return the id of a row of MMAU as it stands in the ids of questions.

    Raises:
        RowError: There is none.
    """
    return str(take(row, "id", str, int)).strip()
