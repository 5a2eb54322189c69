"""The corpus on disk, and what the commands refuse."""

import json
from pathlib import Path

import pytest

from corpus.__main__ import main
from corpus.training_corpus import held_out_clips
from datamodules.traces import TracesDataModule
from records.proposed_question import QuestionOutcome
from records.records import Verdict, read_jsonl, write_jsonl
from records.request_records import RequestError, Usage
from runtime.errors import UserError
from tests.support.stages import write_video
from tests.support.written_questions import heard, proposal, votes

DOG = ("a dog", "a cat", "rain", "a violin")
CLIPS = ("a", "b", "c", "d")


def write(path: Path, records) -> None:
    path.mkdir(parents=True, exist_ok=True)
    write_jsonl(path / "rank-00000.jsonl", records)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Four clips with a good question each, and one with another that speaks of sight."""
    runs = tmp_path / "runs"
    (tmp_path / "data").mkdir()
    good = [proposal(clip, 0, "Which sound is heard?", *DOG) for clip in CLIPS]
    others = [proposal("a", 1, "What is seen?", *DOG), proposal("b", 1, "", fault="declined")]
    write(runs / "questions/proposals", [*good, *others])
    write(runs / "questions/usage", [Usage("a", "r", requests=6, prompt_tokens=60, completion_tokens=6, cost=0.5)])
    errors = [RequestError("a", 0, "time-out", False, "slow"), RequestError("e", None, "media", True, "no video")]
    write(runs / "questions/errors", errors)
    return runs


def judge(runs: Path) -> None:
    """Let all later stages have run."""
    ids = [f"avqa/train/{clip}.0" for clip in CLIPS]
    write(runs / "prior/traces", [trace for one in ids for trace in votes(one, "a cat", "a dog")])
    write(runs / "teacher/traces", [trace for one in ids for trace in votes(one, "a dog", "a dog")])
    write(runs / "grounding/verdicts", [verdict for one in ids for verdict in heard(one, one != ids[3])])
    verdicts = [Verdict(one, sample, sample == 0, "checker") for one in ids for sample in range(2)]
    write(runs / "verify/verdicts", verdicts)


def rows(root: Path, split: str = "train") -> list[dict]:
    return json.loads((root / f"{split}_qa.json").read_text("utf-8"))


def test_between_the_stages(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    main(["gather", str(root), "--runs", str(runs)])
    assert [row["id"] for row in rows(root)] == ["a.0", "b.0", "c.0", "d.0"]
    row = rows(root)[0]
    assert row["multi_choice"][row["answer"]] == "a dog" and row["video_name"] == "a"
    assert "has the 4 that no gate has stopped" in capsys.readouterr().out
    again = (root / "train_qa.json").read_bytes()
    judge(runs)
    main(["gather", str(root), "--runs", str(runs)])
    assert [row["id"] for row in rows(root)] == ["a.0", "b.0", "c.0"]
    assert again != (root / "train_qa.json").read_bytes() and not (root / "traces").exists()


def test_the_corpus_is_read_by_path_alone(runs: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    judge(runs)
    for clip in CLIPS:
        write_video(root / "videos" / f"{clip}.mp4", 40)
    terms = tmp_path / "clips.jsonl"
    terms.write_text('{"clip": "a", "source": "tape | 7", "license": "CC-BY"}\n')
    main(["finish", str(root), "--runs", str(runs), "--held-out", "0.3", "--clips", str(terms)])
    outcomes = list(read_jsonl(root / "outcomes.jsonl", QuestionOutcome))
    assert len(outcomes) == 6 and {one.split for one in outcomes} == {"train", "val", ""}
    assert len(rows(root)) == 2 and len(rows(root, "val")) == 1
    assert not {row["video_name"] for row in rows(root)} & {row["video_name"] for row in rows(root, "val")}
    settings = {"traces": str(root / "traces"), "verdicts": str(root / "verdicts"), "verified": True, "num_workers": 0}
    sft, grpo = (TracesDataModule(str(root), use=use, **settings) for use in ("sft", "prompts"))
    for data in (sft, grpo):
        data.setup("fit")
        assert len(data.trained) == 2 and {item.label for item in data.trained} == {"a dog"}
    assert all(len(item.targets) == 1 for item in sft.trained), "the checker accepted one trace of each"
    sheet = (root / "datasheet.md").read_text("utf-8")
    for line in (
        "| words of sight | 5 | 1 | 0 | 4 |",
        "| grounding | 4 | 1 | 0 | 3 |",
        "| declined | 1 |",
        "| CC-BY | tape \\| 7 | 1 |",
        "| questions | writer | write/1 |  |",
        "| questions | 6 | 60 | 6 | 0 | 0.50 | 1 media |",  # the time-out was made good
        "Not audited",
    ):
        assert line in sheet, line


def test_what_is_refused(runs: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    with pytest.raises(UserError, match="prior/traces, teacher/traces, grounding/verdicts, verify/verdicts: not in"):
        main(["finish", str(root), "--runs", str(runs)])
    with pytest.raises(UserError, match="no question was written yet"):
        main(["gather", str(root), "--runs", str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="no such folder"):
        main(["gather", str(tmp_path / "none"), "--runs", str(runs)])
    (root / "train_qa.json").write_text("[]")
    with pytest.raises(UserError, match="written by somebody else"):
        main(["gather", str(root), "--runs", str(runs)])
    assert (root / "train_qa.json").read_text() == "[]"


def test_files_that_would_be_read_with_the_corpus_are_refused(runs: Path, tmp_path: Path) -> None:
    judge(runs)
    write(tmp_path / "data" / "traces", votes("avqa/train/a.0", "rain"))
    with pytest.raises(UserError, match=r"traces/rank-00000.jsonl is not of this corpus"):
        main(["finish", str(tmp_path / "data"), "--runs", str(runs)])


def test_held_out_clips() -> None:
    clips = [str(number) for number in range(40)]
    assert held_out_clips(clips, 0.0) == set() and len(held_out_clips(clips * 2, 0.1)) == 4
    assert held_out_clips(["a", "b"], 0.01) <= {"a", "b"} and len(held_out_clips(["a", "b"], 0.01)) == 1
