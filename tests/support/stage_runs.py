"""A small AVQA with real videos, and a way to run the stages against a stub endpoint."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.stages import CATEGORIES, OPTIONS, Stage, stage_args, write_video


@pytest.fixture(scope="session")
def avqa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve questions about four videos."""
    root = tmp_path_factory.mktemp("data") / "avqa"
    for clip in range(4):
        write_video(root / "videos" / f"clip{clip}.mp4", 60 * clip)
    rows = [
        {
            "id": number,
            "video_name": f"clip{number % 4}",
            "video_id": number % 4,
            "question_text": f"What is heard in the video, number {number}?",
            "multi_choice": OPTIONS,
            "answer": number % 4,
            "question_relation": "Sound",
            "question_type": CATEGORIES[number % 2],
        }
        for number in range(12)
    ]
    (root / "train_qa.json").write_text(json.dumps(rows))
    (root / "val_qa.json").write_text(json.dumps(rows[:4]))
    return root


@pytest.fixture
def run_teacher(avqa: Path) -> Stage:
    """Run the teacher's stage; returns the CLI."""

    from train import main

    def run(url: str, out: Path, *more: str, root: Path = avqa) -> Any:
        return main([*stage_args("teacher.yaml", root, url, out), "--model.init_args.samples=3", *more])

    return run


@pytest.fixture
def run_verify(avqa: Path) -> Stage:
    """Run the checker's stage on the traces in a folder; returns the CLI."""

    from train import main

    def run(url: str, out: Path, traces: Path, *more: str) -> Any:
        return main([*stage_args("verify.yaml", avqa, url, out), f"--data.init_args.traces={traces}", *more])

    return run
