"""Benchmarks whose rows are described in YAML: their own formats, and what is not as it should be."""

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml

from datamodules.multiple_choice import Columns, MultipleChoiceDataModule, answer_of, choices_of, media_of
from datamodules.reading.annotations import RowError, check_options
from runtime.errors import UserError
from tests.support.dataset_files import tone
from train import main

MMAR = {
    "id": "TxeNUPFnDjI_00-01-40_00-01-48",
    "audio_path": "./audio/TxeNUPFnDjI.wav",
    "question": "How many people speak?",
    "choices": ["1", "2", "3"],
    "answer": "2",
    "modality": "mix-sound-speech",
    "category": "Semantic Layer",
    "sub-category": "Speaker Analysis",
    "language": "en",
    "source": "youtube",
}
MMSU = {
    "id": "accent_1",
    "audio_path": "audio/accent_1.wav",
    "task_name": "accent_identification",
    "question": "Which accent is it?",
    **{"choice_a": "Indian", "choice_b": "Scottish", "choice_c": "Irish", "choice_d": "Welsh", "answer_gt": "Irish"},
    **{"category": "Perception", "sub-category": "Paralinguistics", "sub-sub-category": "Speaker traits"},
    "linguistics_sub_discipline": "Sociolinguistics",
}
MMAU_PRO = {
    "id": "a1",
    "audio_path": ["data/a1.wav"],
    "question": "Which instrument enters last?",
    "answer": "Flute",
    "choices": ["Flute", "Oboe"],
    "length_type": "short",
    "perceptual_skills": ["Timbre"],
    "reasoning_skills": [],
    "category": "music",
}
AIR_BENCH = {
    "uniq_id": 7,
    "path": "clip7.wav",
    "task_name": "Audio_Grounding",
    "dataset_name": "AudioGrounding",
    "question": "When does the dog bark?",
    **{"choice_a": "0 to 1 s", "choice_b": "1 to 2 s", "choice_c": None, "choice_d": "", "answer_gt": "1 to 2 s"},
}


def written(root: Path, annotations: str, rows: list[Any], *clips: str) -> None:
    """Write an annotation file and clips of a second."""
    file = root / annotations
    file.parent.mkdir(parents=True, exist_ok=True)
    content = "\n".join(map(json.dumps, rows)) if file.suffix == ".jsonl" else json.dumps(rows)
    file.write_text(content, encoding="utf-8")
    for clip in clips:
        (root / clip).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / clip, tone(1.0), 16_000)


def by_config(name: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return the DataModule of ``configs/benchmark``."""
    monkeypatch.setenv("SIGHTSOUND_DATA", str(root))
    with pytest.raises(SystemExit):
        main(["test", "--config", f"benchmark/{name}.yaml", "--print_config"])
    chosen = yaml.safe_load(capsys.readouterr().out)["data"]
    assert chosen["class_path"].endswith("MultipleChoiceDataModule")
    options = chosen["init_args"] | {"columns": Columns(**chosen["init_args"]["columns"]), "num_workers": 1}
    return MultipleChoiceDataModule(**options)


@pytest.mark.parametrize(
    ("name", "annotations", "row", "clip", "wanted"),
    [
        ("mmar", "MMAR-meta.json", MMAR, "audio/TxeNUPFnDjI.wav", ("mix-sound-speech", ("1", "2", "3"), "2")),
        (
            *("mmsu", "mmsu.jsonl", MMSU, "audio/accent_1.wav"),
            ("Perception, Paralinguistics", ("Indian", "Scottish", "Irish", "Welsh"), "Irish"),
        ),
        ("mmau_pro", "mmau_pro.jsonl", MMAU_PRO, "data/a1.wav", ("music", ("Flute", "Oboe"), "Flute")),
        (
            *("air_bench", "Foundation/Foundation_meta.json", AIR_BENCH),
            *("Foundation/Audio_Grounding_AudioGrounding/clip7.flac",),
            ("Audio_Grounding", ("0 to 1 s", "1 to 2 s"), "1 to 2 s"),
        ),
    ],
)
def test_published_formats(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    annotations: str,
    row: dict[str, Any],
    clip: str,
    wanted: tuple[str, tuple[str, ...], str],
) -> None:
    """A row as published and one that is broken, which is named by file and row."""
    key = "uniq_id" if name == "air_bench" else "id"
    broken = {k: v for k, v in row.items() if k != "question"} | {key: "broken"}
    written(tmp_path / name, annotations, [row, broken], clip)
    data = by_config(name, tmp_path, monkeypatch, capsys)
    with pytest.warns(UserWarning, match=f"{name}-test: 1 questions; 1 left out"):
        (question,) = data.questions("test")
    assert question.id == f"{name}/test/{row[key]}" and question.media == clip
    assert (question.category, question.options, question.answer_text) == wanted
    assert set(question.metadata) == set(data.settings.columns.metadata)
    assert len(data.load(question)) == 16_000
    (found,) = map(json.loads, (tmp_path / f"{name}-report" / f"{name}-test.bad.jsonl").read_text().splitlines())
    assert found["row"] == 2 and found["file"].endswith(annotations) and "'question' is missing" in found["reason"]


def test_open_questions_and_several_clips_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        MMAU_PRO,
        MMAU_PRO | {"id": "open", "choices": []},
        MMAU_PRO | {"id": "none", "choices": None},
        MMAU_PRO | {"id": "two", "audio_path": ["data/a1.wav", "data/a2.wav"]},
        MMAU_PRO | {"id": "unlabelled", "answer": None},
        MMAU_PRO | {"question": "Which one enters first?"},
    ]
    written(tmp_path, "rows.jsonl", rows, "data/a1.wav")
    data = MultipleChoiceDataModule(str(tmp_path), name="pro", annotations="rows.jsonl", split="v2", num_workers=1)
    with caplog.at_level("INFO"):
        found = data.questions("test")
    assert [question.id for question in found] == ["pro/v2/a1", "pro/v2/unlabelled", "pro/v2/a1/2"]
    assert found[1].answer is None
    assert "3 that are open or about several clips left aside" in caplog.text


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("B", 1),
        (" (b) ", 1),
        ("c.", 2),
        ("D", "option 3, but there are 3"),
        ("Oboe", "must be the letter"),
        (2, "must be the letter"),
    ],
)
def test_answers_by_letter(answer: Any, said: Any) -> None:
    columns = Columns(answer_is="letter")
    if isinstance(said, int):
        assert answer_of({"answer": answer}, columns) == said
        return
    with pytest.raises(RowError, match=said):
        check_options(["x", "y", "z"], answer_of({"answer": answer}, columns))


def test_answers_by_index() -> None:
    columns = Columns(answer_is="index")
    assert answer_of({"answer": 2}, columns) == 2 and answer_of({"answer": None}, columns) is None
    with pytest.raises(RowError, match="whole number"):
        answer_of({"answer": "2"}, columns)


def test_choices_of_several_keys() -> None:
    """An empty one in the middle would give its letter to the next."""
    keys = ["a", "b", "c"]
    assert choices_of({"a": "x", "b": 2, "c": " "}, keys) == ["x", 2]
    assert choices_of({}, keys) == [] and choices_of({}, "choices") == []
    with pytest.raises(RowError, match="'b' is empty, and choices follow it"):
        choices_of({"a": "x", "b": None, "c": "z"}, keys)


def test_paths_of_clips() -> None:
    row = {"task": "Speech", "file": "x.y.wav", "number": 3, "clips": ["one.wav"], "both": ["1", "2"]}
    assert media_of(row, "{task}/{number}/{file}") == "Speech/3/x.y.wav"
    assert media_of(row, "{task}/{file.stem}.flac") == "Speech/x.y.flac"
    assert media_of(row, "clips") == "one.wav" and media_of(row, "both") is None
    with pytest.raises(RowError, match="'tusk' is missing"):
        media_of(row, "{tusk}/{file}")


def test_a_path_cannot_leave_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    written(tmp_path / "root", "rows.json", [MMAR | {"audio_path": "../secret/a.wav"}])
    with pytest.raises(UserError, match=r"no usable question remains: .*unsafe path"):
        MultipleChoiceDataModule(str(tmp_path / "root"), name="x", annotations="rows.json").questions("test")


@pytest.mark.parametrize(("name", "split"), [("a/b", "test"), ("", "test"), ("a", "b/c")])
def test_names_stand_in_ids(tmp_path: Path, name: str, split: str) -> None:
    with pytest.raises(UserError, match="must have no slash"):
        MultipleChoiceDataModule(str(tmp_path), name=name, annotations="rows.json", split=split)
