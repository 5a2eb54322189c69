"""Questions as the rows of AVQA's annotation files."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from corpus.judged_questions import Judged, row_id
from records.valid_text import valid_text
from runtime.errors import UserError
from runtime.whole_file import write_whole


def avqa_row(judged: Judged, video_id: int) -> dict[str, Any]:
    """Return a question as a row of ``train_qa.json``.

    Args:
        judged: A question that could be read.
        video_id: Number of its clip.
    """
    question, outcome = judged.question, judged.outcome
    assert question is not None
    return {
        "id": row_id(outcome.clip, outcome.sample),
        "video_name": outcome.clip,
        "video_id": video_id,
        "question_text": question.text,
        "multi_choice": list(question.options),
        "answer": question.answer,
        "question_relation": question.metadata["question_relation"],
        "question_type": question.category,
    }


def write_rows(path: Path, questions: Iterable[Judged]) -> int:
    """Write an annotation file, one row a line within a JSON list; returns how many rows there are.

    Args:
        path: The file.
        questions: The questions, those of a clip one after another.

    Raises:
        UserError: It cannot be written; what was there before stays.
    """
    clips: dict[str, int] = {}
    rows = []
    for judged in questions:
        number = clips.setdefault(judged.outcome.clip, len(clips))
        rows.append(valid_text(json.dumps(avqa_row(judged, number), ensure_ascii=False)))
    try:
        write_whole(path, ["[\n", ",\n".join(rows), "\n]\n"])
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from None
    return len(rows)
