"""A small corpus of real clips in AVQA's layout, and a browser."""

import json
from pathlib import Path

import pytest

from records.records import Trace, Verdict, write_jsonl
from tests.support.dataset_files import avqa_row, tone, write_mp4

HOSTILE = "I hear <script>document.title = 'hacked'</script> a dog."
KINDS = ("Which", "Why", "Happening")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Six questions: accepted, rejected, disagreeing, unchecked, without traces, and one whose clip lies elsewhere."""
    root = tmp_path / "corpus"
    rows = [avqa_row(number, question_type=KINDS[number % 3]) for number in range(6)]
    rows[5]["video_name"] = "../outside"
    for number in range(5):
        write_mp4(root / "videos" / f"clip{number}.mp4", tone(1.0, 300 + 50 * number))
    write_mp4(root / "outside.mp4", tone(1.0))
    (root / "train_qa.json").write_text(json.dumps(rows), encoding="utf-8")
    said = {0: ("a dog", "A dog "), 1: ("a cat", "a cat"), 2: ("a dog", "rain"), 3: ("rain", "rain")}
    traces = [
        Trace(f"avqa/train/{number}", sample, HOSTILE, answer, "teacher")
        for number, answers in said.items()
        for sample, answer in enumerate(answers)
    ]
    write_jsonl(root / "traces" / "rank-00000.jsonl", traces[:3])
    write_jsonl(root / "traces" / "rank-00001.jsonl", traces[3:])
    verdicts = [("0", 0, True), ("0", 1, False), ("1", 0, False), ("1", 1, False)]
    write_jsonl(
        root / "verdicts" / "rank-00000.jsonl",
        [
            Verdict(f"avqa/train/{number}", sample, accepted, "ear", 0.25, evidence=("a bark",), threshold=0.5)
            for number, sample, accepted in verdicts
        ],
    )
    return root
