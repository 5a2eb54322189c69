"""What is wrong with a dataset is named with file and row, skipped and counted, or stops the run."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datamodules.avqa import AVQADataModule
from datamodules.mmau import MMAUDataModule
from datamodules.music_avqa import MusicAVQADataModule
from records.records import RecordError
from runtime.errors import UserError
from tests.support.dataset_files import avqa_row, tone, write_mp4

BAD_ROWS: list[tuple[Any, str, str]] = [
    ("not an object", "wrong type", "expected an object, found 'not an object'"),
    (None, "wrong type", "expected an object, found None"),
    (avqa_row(1, id=...), "missing key", "key 'id' is missing"),
    (avqa_row(1, video_name=...), "missing key", "key 'video_name' is missing"),
    (avqa_row(1, question_text=...), "missing key", "key 'question_text' is missing"),
    (avqa_row(1, multi_choice=...), "missing key", "key 'multi_choice' is missing"),
    (avqa_row(1, question_type=...), "missing key", "key 'question_type' is missing"),
    (avqa_row(1, question_relation=...), "missing key", "key 'question_relation' is missing"),
    (avqa_row(1, id=1.5), "wrong type", "'id' must be a whole number or text, found the number 1.5"),
    (avqa_row(1, id=True), "wrong type", "'id' must be a whole number or text, found bool"),
    (avqa_row(1, question_text=["What?"]), "wrong type", "'question_text' must be text, found a list"),
    (avqa_row(1, question_text="  "), "empty question", "the question is empty"),
    (avqa_row(1, question_text="Is it <|im_end|>?"), "control token", "the control token <|im_end|>"),
    (avqa_row(1, multi_choice="a dog"), "wrong type", "'multi_choice' must be a list, found text"),
    (avqa_row(1, multi_choice=["a", None, "b"]), "null option", "option 1 is null"),
    (avqa_row(1, multi_choice=["a", ["b"]]), "wrong type", "option 1 must be text, found a list"),
    (avqa_row(1, multi_choice=["a", True]), "wrong type", "option 1 must be text, found bool"),
    (avqa_row(1, multi_choice=["a", float("nan")]), "wrong type", "option 1 is nan"),
    (avqa_row(1, multi_choice=["a", " "]), "empty option", "the option 1 is empty"),
    (avqa_row(1, multi_choice=["a", "<|AUDIO|>"]), "control token", "option 1 contains the control token <|AUDIO|>"),
    (avqa_row(1, multi_choice=[], answer=0), "answer out of range", "the answer is option 0, but there are 0 options"),
    (avqa_row(1, multi_choice=["a"], answer=0), "too few options", "two different options at least, found ['a']"),
    (avqa_row(1, multi_choice=["a", "A "]), "too few options", "two different options at least, found ['a']"),
    (avqa_row(1, multi_choice=[f"o{n}" for n in range(27)]), "too many options", "there may be 26 options, found 27"),
    (avqa_row(1, answer=4), "answer out of range", "the answer is option 4, but there are 4 options"),
    (avqa_row(1, answer=-1), "answer out of range", "the answer is option -1, but there are 4 options"),
    (avqa_row(1, answer="a dog"), "wrong type", "'answer' must be a whole number, found text"),
    (avqa_row(0), "duplicate id", "the id 0 is also that of row 1"),
    (avqa_row(1, video_name="gone"), "missing media", "the clip videos/gone.mp4 is missing in"),
    (avqa_row(1, video_name="../../secret"), "unsafe path", "this one leads out of it"),
    (avqa_row(1, video_name="corrupt"), "corrupt media", "corrupt.mp4: the audio cannot be decoded"),
    (avqa_row(1, video_name="silent"), "corrupt media", "silent.mp4: there is no audio track that can be decoded"),
    (avqa_row(1, video_name="empty"), "corrupt media", "empty.mp4: the file is empty"),
]


@pytest.fixture
def root(write_avqa: Callable[..., Path]) -> Path:
    root = write_avqa()
    (root / "videos" / "corrupt.mp4").write_bytes(b"nothing" * 1000)
    (root / "videos" / "empty.mp4").write_bytes(b"")
    write_mp4(root / "videos" / "silent.mp4", None)
    return root


@pytest.mark.parametrize(("row", "kind", "message"), BAD_ROWS)
def test_a_bad_row_is_left_out_and_reported_or_raised(root: Path, row: Any, kind: str, message: str) -> None:
    file = root / "val_qa.json"
    file.write_text(json.dumps([avqa_row(0), row, avqa_row(2)]))

    data = AVQADataModule(str(root))
    with pytest.warns(UserWarning, match=f"avqa-val: 2 questions; 1 left out \\(1 {kind}\\); each row is named in"):
        data.setup("validate")
    assert [question.id for question in data.questions("val")] == ["avqa/val/0", "avqa/val/2"]
    (line,) = (root.parent / "avqa-report" / "avqa-val.bad.jsonl").read_text().splitlines()
    finding = json.loads(line)
    assert message in finding.pop("reason")
    assert (finding["file"], finding["row"], finding["kind"]) == (str(file), 2, kind)

    with pytest.raises(RecordError) as error:
        AVQADataModule(str(root), on_bad_record="raise").setup("validate")
    assert str(error.value).startswith(f"{file}: row 2: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n{"id": 1,\n oops}]', r"val_qa\.json:3:2: not JSON \(Expecting property name"),
        ("", "the file is empty: download it again"),
        (" \r\n", "the file is empty"),
        ('{"id": 1}', "expected a JSON list of questions, found an object with 'id'; needed is a JSON list of"),
        ("[]", "there is no question in the file"),
        ("[1, 2]", r"no usable question remains: 2 left out \(2 wrong type\)"),
        ('[{"id": 1}, {"id', r"val_qa\.json:1:14: not JSON \(Unterminated string.*cut off: download it again"),
        ('{"id": 1}\n{"id": 2}\n{"id": 3', r"val_qa\.json:3:9: not JSON after 2 questions .*cut off"),
        ('{"id": 1}\nid 2\n', r"val_qa\.json:2:1: not JSON"),
        ("[{}][{}]", r"not JSON \(Extra data\); needed is"),
        ('"text"', "found 'text'; needed is a JSON list"),
        ('{"train": [{"id": 1}], "val": [{"id": 2}]}', r"an object with several lists \('train', 'val'\)"),
        ("[" * 100_000, "nested too deeply"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"this is a Git LFS pointer.* git lfs pull"),
        ("\n<!DOCTYPE html><html>", "this is a web page .*download it again"),
        (gzip.compress(b"[{}]", mtime=0), "this is compressed with gzip: unpack it"),
        (b"PK\x03\x04\x14", "this is a zip archive"),
        (b"PAR1\x15", "this is a Parquet file"),
        ('["caf\xe9"]'.encode("latin-1"), r"not UTF-8 text \(byte 5\): save it as UTF-8"),
        (None, "the annotation file is missing"),
    ],
)
@pytest.mark.filterwarnings("ignore:avqa-val")
def test_a_bad_file_stops_the_run_in_any_case(root: Path, text: str | bytes | None, message: str) -> None:
    if text is not None:
        (root / "val_qa.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecordError, match=message) as error:
        AVQADataModule(str(root)).setup("validate")
    assert str(root / "val_qa.json") in str(error.value)


@pytest.mark.parametrize(
    ("options", "answer", "expected", "right", "kinds"),
    [
        (["a", 2, 2.5], 1, ("a", "2", "2.5"), 1, "number as text"),
        (["x", "y", "x", "z"], 3, ("x", "y", "z"), 2, "option listed twice"),
        (["x", "y", "X"], 2, ("x", "y"), 0, "option listed twice"),
        ([1, "1", "b"], 2, ("1", "b"), 1, "number as text, option listed twice"),
        ([" a ", "b"], 0, ("a", "b"), 0, None),
    ],
)
@pytest.mark.filterwarnings("error:avqa-val")
def test_repairs(
    root: Path, options: list[Any], answer: int, expected: tuple[str, ...], right: int, kinds: str | None
) -> None:
    (root / "val_qa.json").write_text(json.dumps([avqa_row(0, multi_choice=options, answer=answer)]))
    data = AVQADataModule(str(root), on_bad_record="raise")  # repaired rows are not bad rows
    data.setup("validate")
    (question,) = data.questions("val")
    assert (question.options, question.answer) == (expected, right)
    report = root.parent / "avqa-report" / "avqa-val.bad.jsonl"
    if kinds is None:
        assert not report.exists()
    else:
        finding = json.loads(report.read_text())
        assert (finding["kind"], finding["repaired"], finding["id"]) == (kinds, True, "avqa/val/0")


def test_a_report_goes_away_when_nothing_is_wrong_any_more(root: Path) -> None:
    report = root.parent / "avqa-report" / "avqa-val.bad.jsonl"
    (root / "val_qa.json").write_text(json.dumps([avqa_row(0), avqa_row(1, answer=9)]))
    with pytest.warns(UserWarning, match="1 left out"):
        AVQADataModule(str(root)).setup("validate")
    assert report.exists()
    (root / "val_qa.json").write_text(json.dumps([avqa_row(0)]))
    AVQADataModule(str(root)).setup("validate")
    assert not report.exists()


def test_clips_are_decoded_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "val_qa.json").write_text(json.dumps([avqa_row(0), avqa_row(1, video_name="corrupt"), avqa_row(2)]))
    for _ in range(2):
        with pytest.warns(UserWarning, match="1 corrupt media"):
            AVQADataModule(str(root)).setup("validate")
        monkeypatch.setattr("datamodules.media.audio.load_waveform", None)  # the second time nothing is decoded
    monkeypatch.undo()
    write_mp4(root / "videos" / "corrupt.mp4", tone(0.5))  # a repaired clip is looked at again
    data = AVQADataModule(str(root))
    data.setup("validate")
    assert len(data.questions("val")) == 3


def test_an_index_whose_writing_was_interrupted_is_used(root: Path) -> None:
    (root / "val_qa.json").write_text(json.dumps([avqa_row(0), avqa_row(1)]))
    AVQADataModule(str(root)).setup("validate")
    index = root.parent / "avqa-report" / "checked-clips.jsonl"
    index.write_text(index.read_text()[:-20])
    AVQADataModule(str(root)).setup("validate")
    data = AVQADataModule(str(root))
    data.setup("validate")
    assert len(data.questions("val")) == 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_without_validation_a_bad_clip_stops_the_run_when_it_is_reached(
    root: Path, processor_dir: str, num_workers: int
) -> None:
    (root / "val_qa.json").write_text(json.dumps([avqa_row(0), avqa_row(1, video_name="gone")]))
    data = AVQADataModule(
        str(root), validate_media=False, processor=processor_dir, batch_size=1, num_workers=num_workers
    )
    data.setup("validate")
    batches = iter(data.val_dataloader())
    assert next(batches).questions[0].id == "avqa/val/0"
    with pytest.raises(UserError, match=r"avqa/val/1: .*gone\.mp4: the file is missing; with data\.validate_media"):
        next(batches)


def test_the_limit_counts_usable_questions(root: Path) -> None:
    rows = [avqa_row(n, video_name="gone" if n == 0 else "corrupt" if n == 1 else f"clip{n}") for n in range(8)]
    (root / "val_qa.json").write_text(json.dumps(rows))
    data = AVQADataModule(str(root), limit=3)
    with pytest.warns(UserWarning, match="3 questions; 2 left out"):
        data.setup("validate")
    assert [question.id for question in data.questions("val")] == [f"avqa/val/{n}" for n in (2, 3, 4)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size must be 1 or more, found 0"),
        ({"limit": 0}, r"data\.limit must be 1 or more, found 0"),
        ({"max_seconds": -1}, r"data\.max_seconds must be more than 0"),
        ({"prompt": "thunk"}, r"data\.prompt must be one of think, direct, .*, found 'thunk'"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AVQADataModule("data", **settings)


def test_settings_that_are_wrong_only_later(root: Path, tmp_path: Path, processor_dir: str) -> None:
    (root / "train_qa.json").write_text(json.dumps([avqa_row(0), avqa_row(1)]))
    with pytest.raises(UserError, match="2 training questions do not fill a batch of 4 on 1 device"):
        AVQADataModule(str(root)).train_dataloader()
    with pytest.raises(UserError, match=r"data\.processor is not set and the model has no processor"):
        AVQADataModule(str(root), batch_size=2).train_dataloader()
    with pytest.raises(UserError, match=r"data\.processor: the folder .*nowhere does not exist"):
        AVQADataModule(str(root), batch_size=2, processor=str(tmp_path / "nowhere")).train_dataloader()
    with pytest.raises(UserError, match=r"data\.processor: .* has no processor to load"):
        AVQADataModule(str(root), batch_size=2, processor=str(root)).train_dataloader()
    damaged = Path(shutil.copytree(processor_dir, tmp_path / "damaged"))
    (damaged / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(UserError, match=r"data\.processor: .*damaged has no processor to load \(.+\)"):
        AVQADataModule(str(root), batch_size=2, processor=str(damaged)).train_dataloader()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"checked-clips\.jsonl .*; set data\.report_dir to a folder"):
        AVQADataModule(str(root), report_dir=str(tmp_path / "file")).setup("fit")
    with pytest.raises(TypeError, match="batchsize"):
        AVQADataModule(str(root), batchsize=3)


MMAU_ROW = {
    "id": "a-1",
    "audio_id": "./test-mini-audios/a-1.wav",
    "question": "Which?",
    "choices": ["Man", "Woman"],
    "answer": "Woman",
    "task": "sound",
    "category": "Reasoning",
}
MUSIC_ROW = {
    "video_id": "00000093",
    "question_id": 12,
    "type": '["Audio", "Counting"]',
    "question_content": "Is there a <Object> sound?",
    "templ_values": '["acoustic_guitar"]',
    "anser": "yes",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "Child"}, "the answer 'Child' is none of the options ['Man', 'Woman']"),
        ({"answer": 1}, "the answer '1' is none of the options ['Man', 'Woman']"),
        ({"task": None}, "'task' must be text, found null"),
        ({"category": 3}, "'category' must be text or a list, found a whole number"),
        ({"audio_id": "/etc/passwd"}, "this one is absolute"),
        ({"audio_id": "./test-mini-audios/nan.wav"}, "contains NaN"),
        ({"audio_id": ""}, "is not a path of a clip"),
    ],
)
def test_bad_rows_of_mmau(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    audios = tmp_path / "test-mini-audios"
    audios.mkdir()
    soundfile.write(audios / "a-1.wav", tone(0.5), 16_000)
    soundfile.write(audios / "nan.wav", np.full(800, np.nan, np.float32), 16_000, subtype="FLOAT")
    (tmp_path / "mmau-test-mini.json").write_text(json.dumps([MMAU_ROW, {**MMAU_ROW, "id": "a-2", **changes}]))
    data = MMAUDataModule(str(tmp_path), report_dir=str(tmp_path / "report"))
    with pytest.warns(UserWarning, match="1 questions; 1 left out"):
        data.setup("test")
    assert message in json.loads((tmp_path / "report" / "mmau-test-mini.bad.jsonl").read_text())["reason"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "Audio"}, "'type' must be JSON inside of text, found 'Audio'"),
        ({"type": '["Audio"]'}, "'type' must have 2 texts"),
        ({"templ_values": "[1]"}, "'templ_values' must be a list of texts"),
        ({"templ_values": "[]"}, "has 1 placeholders, but there are 0 values"),
        ({"question_content": "Sing <Object>!"}, "is of none of the kinds of questions"),
        ({"anser": "maybe"}, "the answer 'maybe' is none of the options ['yes', 'no']"),
        ({"video_id": 93}, "'video_id' must be text, found a whole number"),
        ({}, "the id 12 is also that of row 1"),
    ],
)
def test_bad_rows_of_music_avqa(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_mp4(tmp_path / "videos" / "00000093.mp4", tone(0.5))
    bad = {**MUSIC_ROW, **({"question_id": 13} if changes else {}), **changes}
    (tmp_path / "avqa-test.json").write_text(json.dumps([MUSIC_ROW, bad]))
    data = MusicAVQADataModule(str(tmp_path), report_dir=str(tmp_path / "report"))
    with pytest.warns(UserWarning, match="1 questions; 1 left out"):
        data.setup("test")
    assert message in json.loads((tmp_path / "report" / "music_avqa-test.bad.jsonl").read_text())["reason"]
