"""Rows as real files have them: without an answer, with half a character, with numbers, with odd ids."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from datamodules.mmau import MMAUDataModule
from datamodules.music_avqa import MusicAVQADataModule
from records.records import Question
from runtime.errors import UserError
from tests.support.dataset_files import tone, write_mp4

ROW = {
    "id": "x",
    "audio_id": "x.wav",
    "question": "Q?",
    "choices": ["a dog", "a cat"],
    "answer": "a cat",
    "task": "sound",
    "category": "R",
}
HALF = "\ud83d"


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., tuple[list[Question], list[dict[str, Any]]]]:
    """Read rows of MMAU; returns the questions and the report."""

    def read(*rows: Any) -> tuple[list[Question], list[dict[str, Any]]]:
        root = tmp_path / "mmau"
        root.mkdir(exist_ok=True)
        soundfile.write(root / "x.wav", tone(0.1), 16_000)
        (root / "mmau-test-mini.json").write_text(json.dumps(rows))
        data = MMAUDataModule(str(root))
        data.setup("test")
        assert [file.name for file in tmp_path.rglob("*.partial")] == []
        report = tmp_path / "mmau-report" / "mmau-test-mini.bad.jsonl"
        found = report.read_text(encoding="utf-8").splitlines() if report.exists() else []
        return data.questions("test"), [json.loads(line) for line in found]

    return read


Read = Callable[..., tuple[list[Question], list[dict[str, Any]]]]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"question": f"Is it {HALF}?"}, {"text": "Is it \ufffd?"}),
        ({"choices": [f"a dog {HALF}", "a cat"]}, {"options": ("a dog \ufffd", "a cat")}),
        ({"choices": [f"a dog {HALF}", "a cat"], "answer": f"a dog {HALF}"}, {"answer": 0}),
        ({"id": f"y{HALF}"}, {"id": "mmau/test-mini/y\ufffd"}),
        ({"task": HALF}, {"category": "\ufffd"}),
        ({"dataset": [{HALF: HALF}]}, {}),
    ],
)
def test_half_an_emoji_is_replaced_and_counted(
    read: Read, processor: Any, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    (question,), (finding,) = read(ROW | changes)
    assert {name: getattr(question, name) for name in expected} == expected
    assert (finding["kind"], finding["row"], finding["repaired"]) == ("half a character", 1, True)
    assert Question.from_json(question.to_json()) == question
    assert processor.tokenizer(question.text + "".join(question.options))["input_ids"]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (ROW | {"id": "y", "audio_id": f"{HALF}.wav"}, "missing media"),
        (ROW | {"id": f"y{HALF}", "audio_id": f"gone {HALF}.wav"}, "missing media"),
        (ROW | {"id": "y", "question": "", "audio_id": HALF}, "empty question"),
        (f"a text {HALF}", "wrong type"),
        (ROW | {"id": HALF + "\u200b", "choices": [HALF, HALF]}, "too few options"),
    ],
)
def test_a_row_with_half_an_emoji_that_is_left_out_is_named(read: Read, row: Any, kind: str) -> None:
    with pytest.warns(UserWarning, match="1 questions; 1 left out"):
        questions, (finding,) = read(ROW, row)
    assert (len(questions), finding["row"], finding["kind"], finding["repaired"]) == (1, 2, kind, False)


@pytest.mark.parametrize(
    ("changes", "options", "answer"),
    [
        ({"choices": ["café", "bar"], "answer": "cafe\u0301"}, ("café", "bar"), 0),  # the two forms of Unicode
        ({"choices": ["a\u200b", " b\ufeff"], "answer": "b"}, ("a", "b"), 1),
        ({"choices": ["a  dog", "a cat"], "answer": "A dog"}, ("a  dog", "a cat"), 0),
        ({"choices": [1, 2, 2.5], "answer": 2}, ("1", "2", "2.5"), 1),  # a number is the choice, not its place
        ({"choices": ["cafe\u0301", "café", "bar"], "answer": "bar"}, ("cafe\u0301", "bar"), 1),
    ],
)
def test_options_and_answers_in_other_spellings(
    read: Read, changes: dict[str, Any], options: tuple[str, ...], answer: int
) -> None:
    (question,), _ = read(ROW | changes)
    assert (question.options, question.answer) == (options, answer)


def test_odd_ids(read: Read) -> None:
    with pytest.warns(UserWarning, match="4 questions; 5 left out"):
        questions, report = read(
            *(ROW | {"id": name} for name in (1, "1", 2.0, "a/b", "", " ", None, float("nan"), "c"))
        )
    assert [question.id for question in questions] == [f"mmau/test-mini/{name}" for name in ("1", "2", "a/b", "c")]
    assert [(f["row"], f["kind"]) for f in report] == [
        (2, "duplicate id"),
        (5, "empty id"),
        (6, "empty id"),
        (7, "wrong type"),
        (8, "wrong type"),
    ]


def test_nested_rows_are_left_out(read: Read) -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    with pytest.warns(UserWarning, match="1 questions; 3 left out"):
        _, report = read(ROW, deep, ROW | {"id": "y", "choices": deep}, ROW | {"id": "z", "question": deep})
    assert {finding["kind"] for finding in report} == {"wrong type"}
    # Python 3.12 parses such nesting, so that what it found is named
    assert ("nested too deeply" if sys.version_info < (3, 12) else "expected an object") in report[0]["reason"]


UNKNOWN: list[dict[str, Any]] = [{"answer": ""}, {"answer": " "}, {"answer": None}, {"answer": float("nan")}]


@pytest.mark.parametrize("change", [*UNKNOWN, {}])
def test_questions_without_an_answer_are_asked(
    tmp_path: Path, change: dict[str, Any], processor_dir: str, caplog: pytest.LogCaptureFixture
) -> None:
    row = {key: value for key, value in ROW.items() if key != "answer"} | change
    soundfile.write(tmp_path / "x.wav", tone(0.1), 16_000)
    (tmp_path / "mmau-test.json").write_text(json.dumps([row, row | {"id": "y"}]))
    data = MMAUDataModule(
        str(tmp_path),
        annotations="mmau-test.json",
        report_dir=str(tmp_path / "report"),
        processor=processor_dir,
        num_workers=0,
        option_order=1,
    )
    data.setup("test")
    assert [(q.id, q.answer, q.answer_text) for q in data.questions("test")] == [
        ("mmau/test/x", None, None),
        ("mmau/test/y", None, None),
    ]
    assert "2 of 2 questions have no answer" in caplog.text
    for loader in (data.test_dataloader(), data.predict_dataloader()):
        (batch,) = loader
        assert batch.labels == [None, None]
    with pytest.raises(UserError, match=r"none of the 2 questions for validation has an answer.*use test or predict"):
        data.val_dataloader()
    with pytest.raises(UserError, match=r"2 of 2 questions have no answer \(mmau/test/x is the first\).*train"):
        data.train_items(data.questions("test"))


@pytest.mark.parametrize("change", [{"anser": ""}, {"anser": None}, {"anser": ...}])
def test_music_avqa_without_answers(tmp_path: Path, change: dict[str, Any]) -> None:
    write_mp4(tmp_path / "videos" / "v.mp4", tone(0.5))
    row = {
        "video_id": "v",
        "question_id": 1,
        "type": '["Audio", "Counting"]',
        "question_content": "Is there a <Object> sound?",
        "templ_values": '["flute"]',
        "anser": "yes",
    } | change
    rows = [{key: value for key, value in row.items() if value is not ...}, row | {"question_id": 2, "anser": "no"}]
    (tmp_path / "avqa-test.json").write_text(json.dumps(rows))
    data = MusicAVQADataModule(str(tmp_path), report_dir=str(tmp_path / "report"), num_workers=0)
    assert [question.answer_text for question in data.questions("test")] == [None, "no"]
