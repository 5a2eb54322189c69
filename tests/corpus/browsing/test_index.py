"""What filters and pages are answered from."""

import json
from pathlib import Path

import pytest

from corpus.browsing.index import CorpusIndex, Selection
from corpus.browsing.place import place_of
from records.records import RecordError


def index_of(root: Path) -> CorpusIndex:
    index = CorpusIndex(place_of(root, "train", [], [], None))
    index.read_records()
    return index


def numbers(index: CorpusIndex, **filters: str) -> list[int]:
    return [one.n for one in index.page(Selection(**filters), 0, 50)]


def test_gates(corpus: Path) -> None:
    index = index_of(corpus)
    assert index.status == ""
    assert index.gates() == {"no traces": 2, "traces disagree": 1, "not checked": 1, "rejected": 1, "accepted": 1}
    assert [index.question(n).gate for n in range(6)] == [  # type: ignore[union-attr]
        *("accepted", "rejected", "traces disagree", "not checked", "no traces", "no traces")
    ]
    assert numbers(index, gate="accepted") == [0] and numbers(index, gate="rejected") == [1]


def test_kinds_words_and_pages(corpus: Path) -> None:
    index = index_of(corpus)
    assert index.kinds() == [("Happening", 2), ("Which", 2), ("Why", 2)]
    assert numbers(index, kind="Why") == [1, 4]
    assert numbers(index, words="CLIP3") == [3] and numbers(index, words="violin") == [0, 1, 2, 3, 4, 5]
    assert numbers(index, kind="Why", words="%") == []
    assert [one.n for one in index.page(Selection(), 4, 50)] == [4, 5]
    assert index.neighbours(Selection(kind="Why"), 1) == (None, 4)
    assert index.neighbours(Selection(), 5) == (4, None)
    assert index.question(6) is None


def test_traces_with_their_verdicts(corpus: Path) -> None:
    index = index_of(corpus)
    index.set_label("avqa/train/0", 1, True)
    (first, yes, none), (second, no, person) = index.traces("avqa/train/0")
    assert (first.sample, second.sample) == (0, 1) and (second.answer, none, person) == ("A dog ", None, True)
    assert yes is not None and yes.accepted and no is not None and not no.accepted
    assert index.traces("avqa/train/4") == []


def test_labels_are_filtered_by(corpus: Path) -> None:
    index = index_of(corpus)
    index.set_label("avqa/train/0", 0, True)
    assert numbers(index, judged="labelled") == [0] and numbers(index, judged="label differs from the checker") == []
    index.set_label("avqa/train/1", 0, True)
    assert numbers(index, judged="label differs from the checker") == [1]
    index.set_label("avqa/train/1", 0, None)
    assert numbers(index, judged="unlabelled") == [1, 2, 3, 4, 5]


def test_the_first_of_two_traces_of_a_sample_counts(corpus: Path) -> None:
    lines = (corpus / "traces" / "rank-00000.jsonl").read_text()
    (corpus / "traces" / "rank-00009.jsonl").write_text(lines.replace("A dog ", "rain"))
    assert index_of(corpus).question(0).gate == "accepted"  # type: ignore[union-attr]


def test_a_stage_that_still_writes(corpus: Path) -> None:
    file = corpus / "traces" / "rank-00001.jsonl"
    file.write_text(file.read_text()[:-10])
    assert index_of(corpus).gates()["not checked"] == 1  # of question 3, one trace is left


def test_a_line_that_is_no_record_is_named(corpus: Path) -> None:
    file = corpus / "verdicts" / "rank-00000.jsonl"
    file.write_text("[]\n" + file.read_text())
    assert "rank-00000.jsonl:1: not a trace or verdict" in index_of(corpus).status


def test_a_file_that_changed_is_named(corpus: Path) -> None:
    index = index_of(corpus)
    (corpus / "traces" / "rank-00000.jsonl").write_text("x" * 2000)
    with pytest.raises(RecordError, match=r"rank-00000.jsonl at byte 0: not JSON"):
        index.traces("avqa/train/0")


def test_rows_of_any_shape(corpus: Path) -> None:
    rows = [{"id": 1}, {"id": 2, "multi_choice": "a", "question_type": 3}, 7]
    (corpus / "train_qa.json").write_text(json.dumps(rows))
    assert [one.id for one in index_of(corpus).page(Selection(), 0, 9)] == ["avqa/train/1", "avqa/train/2"]
