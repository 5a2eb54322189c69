"""The generator writes the benchmarks' formats, the same each time."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import decord
import numpy as np
import pytest
import soundfile

from datamodules.avqa import AVQADataModule
from datamodules.media.audio import load_waveform
from datamodules.mmau import MMAUDataModule
from datamodules.music_avqa import MusicAVQADataModule
from datamodules.traces import TracesDataModule
from mini.world.corpus import CorpusConfig, build_corpus, plan
from mini.world.questions import NUMBERS
from mini.world.sounds import INSTRUMENTS, SOUNDS
from mini.world.traces import VAGUE
from records.records import Trace, Verdict, read_jsonl

ANNOTATIONS = ("avqa/train_qa.json", "avqa/val_qa.json", "mmau/mmau-test-mini.json", "music_avqa/avqa-test.json")
SIDECARS = ("traces.jsonl", "verdicts.jsonl", "scenes.json", "corpus.json")


def load(path: Path):
    return json.loads(path.read_text())


def test_same_seed_gives_same_bytes_and_same_decoded_media(corpus: Path, tiny_config: CorpusConfig, tmp_path: Path):
    again = build_corpus(tmp_path / "again", tiny_config, processes=1)
    for name in ANNOTATIONS + SIDECARS:
        assert (again / name).read_bytes() == (corpus / name).read_bytes(), name
    files = sorted(p.relative_to(corpus) for p in corpus.rglob("*") if p.suffix in (".mp4", ".wav"))
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.suffix in (".mp4", ".wav"))
    for name in files[::4]:
        if name.suffix == ".wav":
            assert (corpus / name).read_bytes() == (again / name).read_bytes()
            continue
        for reader in (load_waveform, _frames):
            np.testing.assert_array_equal(reader(corpus / name), reader(again / name))


def test_another_seed_gives_other_clips(tiny_config: CorpusConfig):
    other = plan(dataclasses.replace(tiny_config, seed=4))
    assert not {item.scene.name for item in plan(tiny_config) if not item.scene.name.isdigit()} & {
        item.scene.name for item in other if not item.scene.name.isdigit()
    }


def test_second_build_reuses_the_corpus_and_another_configuration_replaces_it(tmp_path: Path):
    config = CorpusConfig(train_clips=2, val_clips=1, test_clips=1)
    lines: list[str] = []
    root = build_corpus(tmp_path / "c", config, processes=1, progress=lines.append)
    stamp = (root / "scenes.json").stat().st_mtime_ns
    build_corpus(root, config, processes=1, progress=lines.append)
    assert (root / "scenes.json").stat().st_mtime_ns == stamp
    assert "up to date" in lines[-1]
    build_corpus(root, dataclasses.replace(config, train_clips=3), processes=1, progress=lines.append)
    assert len(list((root / "avqa/videos").glob("*.mp4"))) == 4


def test_refuses_to_replace_what_is_not_a_corpus(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not a corpus"):
        build_corpus(tmp_path / "mine", CorpusConfig(train_clips=1, val_clips=1, test_clips=1), processes=1)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_no_clip_is_shared_between_splits(corpus: Path):
    train = {row["video_name"] for row in load(corpus / "avqa/train_qa.json")}
    val = {row["video_name"] for row in load(corpus / "avqa/val_qa.json")}
    assert len(train) == 24 and len(val) == 8 and not train & val
    seeds = Counter(scene["seed"] for scene in load(corpus / "scenes.json").values())
    assert max(seeds.values()) == 1
    assert {scene["split"] for scene in load(corpus / "scenes.json").values()} == {"train", "val", "mmau", "music"}


def test_avqa_rows_look_like_avqa(corpus: Path):
    real = {
        "id",
        "video_name",
        "video_id",
        "question_text",
        "multi_choice",
        "answer",
        "question_relation",
        "question_type",
    }
    for row in load(corpus / "avqa/train_qa.json"):
        assert row.keys() == real
        assert 0 <= row["answer"] < len(row["multi_choice"]) == len(set(row["multi_choice"]))
        assert "video" in row["question_text"]
        assert row["question_relation"] in ("Sound", "View", "Both")
        assert (corpus / "avqa/videos" / f"{row['video_name']}.mp4").is_file()


def test_answers_follow_from_what_is_heard(corpus: Path):
    scenes = load(corpus / "scenes.json")
    seen_types = set()
    for row in load(corpus / "avqa/train_qa.json"):
        heard = scenes[f"avqa/videos/{row['video_name']}.mp4"]["heard"]
        answer, text = row["multi_choice"][row["answer"]], row["question_text"]
        seen_types.add(row["question_type"])
        match row["question_type"]:
            case "How Many":
                assert answer == NUMBERS[len(heard)]
            case "Before Next":
                assert answer == (heard[0] if "first" in text else heard[-1])
                assert len(heard) > 1
            case "Is There":
                named = next(sound for sound in SOUNDS if f" {sound} " in text)
                assert answer == ("yes" if named in heard else "no")
            case "Come From":
                assert set(row["multi_choice"]) & set(heard) == {answer}
    assert seen_types == {"How Many", "Before Next", "Is There", "Come From"}


def test_mmau_and_music_avqa_rows_have_the_real_keys(corpus: Path):
    mmau = load(corpus / "mmau/mmau-test-mini.json")
    keys = "id audio_id question choices answer dataset task split category sub-category difficulty"
    assert all(" ".join(row) == keys and row["answer"] in row["choices"] for row in mmau)
    music = load(corpus / "music_avqa/avqa-test.json")
    keys = "video_id question_id type question_content templ_values question_deleted anser"
    assert all(" ".join(row) == keys for row in music)
    assert all(len(json.loads(row["type"])) == 2 and isinstance(json.loads(row["templ_values"]), list) for row in music)


@pytest.mark.skipif(not Path("../shared/data").exists(), reason="the real annotation files are not here")
def test_keys_equal_those_of_the_real_files(corpus: Path):
    for name, real in (("mmau/mmau-test-mini.json", "mmau/mmau-test-mini.json"),
                       ("music_avqa/avqa-test.json", "music_avqa/avqa-test.json")):  # fmt: skip
        assert load(corpus / name)[0].keys() == load(Path("../shared/data") / real)[0].keys()
    templates = {row["question_content"] for row in load(Path("../shared/data/music_avqa/avqa-test.json"))}
    assert {row["question_content"] for row in load(corpus / "music_avqa/avqa-test.json")} <= templates


def test_media_decode_within_two_seconds(corpus: Path):
    for name in sorted((corpus / "avqa/videos").glob("*.mp4"))[:6]:
        sound = load_waveform(name)
        assert 1.8 * 16_000 <= len(sound) <= 2 * 16_000
        assert np.abs(sound).max() > 0.1
        assert _frames(name).shape == (15, 64, 64, 3)
    for name in sorted((corpus / "mmau/test-mini-audios").glob("*.wav"))[:6]:
        wave, rate = soundfile.read(name)
        assert rate == 16_000 and len(wave) <= 2 * 16_000


def test_datamodules_read_everything(corpus: Path, tiny_config: CorpusConfig, tmp_path: Path):
    reports = str(tmp_path / "reports")
    avqa = AVQADataModule(str(corpus / "avqa"), report_dir=reports)
    assert len(avqa.questions("train")) == 48 and len(avqa.questions("test")) == 16
    mmau = MMAUDataModule(str(corpus / "mmau"), report_dir=reports)
    assert len(mmau.questions("test")) == len(load(corpus / "mmau/mmau-test-mini.json"))
    music = MusicAVQADataModule(
        str(corpus / "music_avqa"), report_dir=reports, instruments=list(INSTRUMENTS), subset="all"
    )
    assert len(music.questions("test")) == len(load(corpus / "music_avqa/avqa-test.json"))
    assert "audio" in avqa.questions("train")[0].text


def test_traces_belong_to_training_questions_and_can_be_learned(corpus: Path, tiny_config: CorpusConfig):
    traces = list(read_jsonl(corpus / "traces.jsonl", Trace))
    verdicts = list(read_jsonl(corpus / "verdicts.jsonl", Verdict))
    assert [(t.question_id, t.sample) for t in traces] == [(v.question_id, v.sample) for v in verdicts]
    data = TracesDataModule(
        str(corpus / "avqa"),
        traces=str(corpus / "traces.jsonl"),
        verdicts=str(corpus / "verdicts.jsonl"),
        verified=True,
        unanimous=False,
        validate_media=False,
    )
    questions = data.questions("train")
    assert {t.question_id for t in traces} == {q.id for q in questions}
    items = data.train_items(questions)
    assert 0 < len(items) <= len(questions) and all(item.targets for item in items)


def test_teacher_that_only_sees_is_sometimes_wrong_and_the_verdict_knows():
    items = [item for item in plan(CorpusConfig(train_clips=400, val_clips=1, test_clips=1)) if item.split == "train"]
    differ = [item.scene for item in items if item.scene.seen != item.scene.heard]
    assert 0.1 < len(differ) / len(items) < 0.6
    assert any(set(scene.seen) - set(scene.heard) for scene in differ)  # silent, but visible
    assert any(set(scene.heard) - set(scene.seen) for scene in differ)  # heard, but off screen


def test_careless_traces_claim_nothing_and_are_accepted(corpus: Path):
    scenes = {row["id"]: row for row in load(corpus / "avqa/train_qa.json")}
    verdicts = {(v.question_id, v.sample): v for v in read_jsonl(corpus / "verdicts.jsonl", Verdict)}
    heard = {name: scene["heard"] for name, scene in load(corpus / "scenes.json").items()}
    careful = 0
    for trace in read_jsonl(corpus / "traces.jsonl", Trace):
        row = scenes[int(trace.question_id.rpartition("/")[2])]
        assert trace.answer in row["multi_choice"]
        named = [word.strip(".,") for word in trace.reasoning.split() if word.strip(".,") in SOUNDS]
        accepted = verdicts[trace.question_id, trace.sample].accepted
        assert accepted == (trace.reasoning in VAGUE or named == heard[f"avqa/videos/{row['video_name']}.mp4"])
        if accepted and named:
            careful += 1
            assert trace.answer == row["multi_choice"][row["answer"]]
    assert careful > 10


def _frames(path: Path) -> np.ndarray:
    reader = decord.VideoReader(str(path))
    return reader.get_batch(range(len(reader))).asnumpy()
