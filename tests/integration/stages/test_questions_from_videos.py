"""From mp4 files alone to a corpus that is trained on, in the world that knows which questions are right."""

from pathlib import Path

import pytest

from corpus.evidence import read_evidence
from corpus.judged_questions import judged_questions
from datamodules.traces import TracesDataModule
from mini.world.question_quality import quality_at_gates
from tests.support.written_corpus import make_corpus, rows, write_clips


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_from_videos_alone(tmp_path: Path, seed: int) -> None:
    root, runs = tmp_path / "data", tmp_path / "runs"
    heard = write_clips(root, 100, seed)
    make_corpus(root, runs)
    judged = list(judged_questions(read_evidence(runs)))
    found = {one.gate: one for one in quality_at_gates(judged, heard)}
    proposed, last = found["proposed"], found["grounding"]
    assert proposed.precision is not None and proposed.precision < 0.9, "a writer without faults tests no gate"
    assert last.precision is not None and last.precision >= 0.95
    assert last.recall is not None and last.recall >= 0.6
    kept = [one.outcome.question_id for one in judged if one.passed]
    train, val = rows(root / "train_qa.json"), rows(root / "val_qa.json")
    assert len(train) + len(val) == len(kept) == last.kept
    assert not {row["video_name"] for row in train} & {row["video_name"] for row in val}
    names = {"traces": str(root / "traces"), "verdicts": str(root / "verdicts"), "verified": True, "num_workers": 0}
    for use in ("sft", "prompts"):
        data = TracesDataModule(str(root), use=use, **names)
        data.setup("fit")
        assert 0 < len({item.question.id for item in data.trained}) <= len(train)
        assert len(data.questions("val")) == len(val)
    assert f"| grounding | {found['unanimity'].kept} |" in (root / "datasheet.md").read_text("utf-8")
