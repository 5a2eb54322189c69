"""Questions and predictions for the tests."""

import json
from pathlib import Path
from typing import Any

from records.records import Prediction, Question, write_jsonl

OPTIONS = ("dog", "cat", "rain", "wind")


def question(number: int, **changes: Any) -> Question:
    """A question on MMAU whose right option is "cat"."""
    values: dict[str, Any] = {
        "id": f"mmau/test-mini/q{number}",
        "dataset": "mmau",
        "media": f"test-mini-audios/q{number}.wav",
        "text": "What is heard?",
        "options": OPTIONS,
        "answer": 1,
        "category": ("sound", "music", "speech")[number % 3],
        **changes,
    }
    return Question(**values)


def prediction(number: int, completion: str = "<answer>cat</answer>", **changes: Any) -> Prediction:
    """A prediction on the question of this number, as PredictionWriter writes it."""
    values: dict[str, Any] = {
        "question_id": f"mmau/test-mini/q{number}",
        "completion": completion,
        "choice": {"cat": 1, "dog": 0, "rain": 2, "wind": 3}.get(completion[8:-9]),
        "answer": 1,
        "correct": None,
        "category": "sound",
        "options": OPTIONS,
        "finished": True,
        **changes,
    }
    return Prediction(**values)


def write_mmau(data: Path, questions: list[Question]) -> Path:
    """Write the questions as MMAU's annotation file below ``data`` and return ``data``."""
    rows = [
        {
            "id": q.id.rpartition("/")[2],
            "audio_id": f"./{q.media}",
            "question": q.text,
            "choices": list(q.options),
            "answer": q.answer_text,
            "task": q.category,
            "category": "Reasoning",
        }
        for q in questions
    ]
    (data / "mmau").mkdir(parents=True, exist_ok=True)
    (data / "mmau" / "mmau-test-mini.json").write_text(json.dumps(rows), encoding="utf-8")
    return data


def write_predictions(path: Path, predictions: list[Prediction]) -> Path:
    """Write predictions and return the path."""
    write_jsonl(path, predictions)
    return path
