"""The synthetic world at its smallest, for tests that run the command line on real files."""

import json
from pathlib import Path

from mini.world.corpus import CorpusConfig, build_corpus
from mini.world.student import StudentConfig, build_student

SMALLEST = StudentConfig(vocabulary=320, mel_bins=16, audio_width=16, audio_layers=1, width=16, layers=1, heads=2)


def build_world(directory: Path) -> Path:
    """Write ``corpus`` and ``student`` below a folder; a few seconds."""
    build_corpus(directory / "corpus", CorpusConfig(train_clips=8, val_clips=3, test_clips=3), processes=1)
    lines = (directory / "corpus" / "traces.jsonl").read_text(encoding="utf-8").splitlines()
    build_student(directory / "student", [json.loads(line)["reasoning"] for line in lines], SMALLEST)
    return directory
