"""The datasets as they are downloaded, small and real."""

import io
import json
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI

from datamodules.audio_qa import AudioQADataModule
from datamodules.avqa import AVQADataModule, about_audio
from datamodules.batching.collate import Collator
from datamodules.media.audio import load_waveform
from datamodules.mmau import MMAUDataModule
from datamodules.music_avqa import INSTRUMENTS, NUMBERS, MusicAVQADataModule, answers_of, fill_template
from datamodules.prompts.questions import Prompt
from datamodules.traces import TracesDataModule
from evaluation.benchmarks import read_questions
from lightning_modules.doors import RolloutModule
from runtime.errors import UserError
from tests.support.dataset_files import SHARED, avqa_row, needs_shared, tone, write_mp4


class TestAVQA:
    def test_questions(self, write_avqa: Callable[..., Path]) -> None:
        data = AVQADataModule(str(write_avqa([avqa_row(3)], [avqa_row(3), avqa_row(4, question_type="Where")])))
        data.setup("fit")
        (train,) = data.questions("train")
        assert (train.id, train.dataset, train.media) == ("avqa/train/3", "avqa", "videos/clip3.mp4")
        assert train.text == "What can be heard in the audio?"
        assert (train.options, train.answer_text) == (("a dog", "a cat", "a violin", "rain"), "rain")
        assert train.category == "Which"
        assert train.metadata == {"question_type": "Which", "question_relation": "Sound", "video_id": 103}
        assert [question.category for question in data.questions("val")] == ["Which", "Where"]
        assert data.questions("test") == data.questions("val")
        assert data.questions("predict") == data.questions("train")

    def test_the_question_as_it_was_and_extracted_audio(self, write_avqa: Callable[..., Path]) -> None:
        root = write_avqa([avqa_row(17)], [])
        data = AVQADataModule(str(root), audio_text=False, media_suffix=".wav")
        (question,) = data.questions("train")
        assert question.text == "What can be heard in the video?"
        assert np.array_equal(data.load(question), load_waveform(root / "videos" / "clip17.wav"))

    def test_questions_of_ones_own_need_no_answer(
        self, write_avqa: Callable[..., Path], caplog: pytest.LogCaptureFixture
    ) -> None:
        """The teacher answers them; trained on by themselves they are refused."""
        data = AVQADataModule(str(write_avqa([avqa_row(1, answer=...), avqa_row(2, answer=None), avqa_row(3)], [])))
        with caplog.at_level("INFO"):
            assert [question.answer for question in data.questions("train")] == [None, None, 3]
        assert "2 of 3 questions have no answer" in caplog.text
        with pytest.raises(UserError, match="2 of 3 questions have no answer"):
            data.train_items(data.questions("train"))

    def test_about_audio(self) -> None:
        assert about_audio("Video, video and VIDEO videos.") == "Audio, audio and AUDIO audios."
        assert about_audio("The videographer's videotape") == "The videographer's videotape"

    def test_batches(self, write_avqa: Callable[..., Path], processor_dir: str) -> None:
        root = write_avqa([avqa_row(n) for n in range(5)], [avqa_row(n) for n in range(3)])
        prompt = Prompt("mine", "{question} {options}")
        data = AVQADataModule(
            str(root), processor=processor_dir, batch_size=2, eval_batch_size=3, num_workers=2, prompt=prompt
        )
        data.setup("fit")
        train = list(data.train_dataloader())
        assert [len(batch) for batch in train] == [2, 2]
        (val,) = data.val_dataloader()
        assert [question.id for question in val.questions] == ["avqa/val/0", "avqa/val/1", "avqa/val/2"]
        assert val.labels == ["a dog", "a cat", "a violin"]
        assert val.completions is None
        for question, waveform in zip(val.questions, val.waveforms, strict=True):
            assert np.array_equal(waveform, data.load(question)[:32_000])
        text = data.collator.processor.tokenizer.decode(val.request_ids[0])
        assert "What can be heard in the audio? (A) a dog\n(B) a cat\n" in text

    def test_the_model_s_own_processor_is_taken(self, write_avqa: Callable[..., Path], processor: Any) -> None:
        module = RolloutModule()
        module.student = SimpleNamespace(processor=processor)  # type: ignore[assignment]
        data = AVQADataModule(str(write_avqa([avqa_row(0)], [])), num_workers=0)
        data.trainer = SimpleNamespace(lightning_module=module)  # type: ignore[assignment]
        assert data.collator.processor is processor

    def test_decoded_waveforms_are_kept(
        self, write_avqa: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = AVQADataModule(str(write_avqa([avqa_row(0)], [])), cache_dir=str(tmp_path / "cache"))
        (question,) = data.questions("train")
        first = data.load(question)
        monkeypatch.setattr("datamodules.media.audio.load_waveform", None)
        assert np.array_equal(data.load(question), first)


class TestMMAU:
    def test_questions(self, tmp_path: Path) -> None:
        (tmp_path / "test-mini-audios").mkdir()
        soundfile.write(tmp_path / "test-mini-audios" / "x.wav", tone(0.5), 16_000)
        row = {
            "id": "x",
            "audio_id": "./test-mini-audios/x.wav",
            "question": "Which one? ",
            "choices": ["thirteen", "twenty", "thirteen", "five"],
            "answer": "five",
            "dataset": "AudioSet",
            "task": "speech",
            "category": ["Reasoning"],
            "sub-category": "Counting",
            "difficulty": "hard",
        }
        (tmp_path / "mmau-test-mini.json").write_text(json.dumps([row]))
        data = MMAUDataModule(str(tmp_path), report_dir=str(tmp_path / "report"))
        data.setup("test")
        (question,) = data.questions("test")
        assert (question.id, question.media) == ("mmau/test-mini/x", "test-mini-audios/x.wav")
        assert (question.text, question.category) == ("Which one?", "speech")
        assert (question.options, question.answer) == (("thirteen", "twenty", "five"), 2)
        assert question.metadata == {
            "category": "Reasoning",
            "sub_category": "Counting",
            "difficulty": "hard",
            "source": "AudioSet",
        }
        assert data.questions("val") == data.questions("predict") == [question]
        data.setup("fit")
        with pytest.raises(UserError, match="MMAUDataModule has no questions for train"):
            data.train_dataloader()

    @needs_shared
    def test_no_row_of_the_real_file_is_lost(self, tmp_path: Path) -> None:
        data = MMAUDataModule(
            str(SHARED / "mmau"), validate_media=False, on_bad_record="raise", report_dir=str(tmp_path)
        )
        questions = data.questions("test")
        assert Counter(question.category for question in questions) == {"sound": 333, "music": 334, "speech": 333}
        rows = json.loads((SHARED / "mmau" / "mmau-test-mini.json").read_text())
        assert [question.answer_text for question in questions] == [row["answer"].strip() for row in rows]
        assert len({question.id for question in questions}) == 1000
        report = (tmp_path / "mmau-test-mini.bad.jsonl").read_text().splitlines()
        assert Counter(json.loads(line)["kind"] for line in report) == {"option listed twice": 27}

    @needs_shared
    def test_the_clip_that_is_here_is_heard(self, tmp_path: Path) -> None:
        data = MMAUDataModule(str(SHARED / "mmau"), report_dir=str(tmp_path))
        with pytest.warns(UserWarning, match="1 questions; 999 left out"):
            data.setup("test")
        assert data.load(data.questions("test")[0]).shape == (160_000,)


class TestMusicAVQA:
    def test_questions(self, tmp_path: Path) -> None:
        write_mp4(tmp_path / "MUSIC-AVQA-videos-Real" / "00000093.mp4", tone(0.5))
        write_mp4(tmp_path / "MUSIC-AVQA-videos-Synthetic" / "sa00000001.mp4", tone(0.5))
        rows = [
            {
                "video_id": "00000093",
                "question_id": 7,
                "type": '["Audio-Visual", "Counting"]',
                "question_content": "How many sounding <Object> in the video\N{FULLWIDTH QUESTION MARK}",
                "templ_values": '["acoustic_guitar"]',
                "question_deleted": 0,
                "anser": answer,
            }
            for answer in ("three", "more than ten")
        ]
        rows.append({**rows[0], "question_id": 8, "type": '["Visual", "Counting"]', "video_id": "sa00000001"})
        (tmp_path / "avqa-test.json").write_text(json.dumps(rows))
        data = MusicAVQADataModule(str(tmp_path), report_dir=str(tmp_path / "report"))
        data.setup("test")
        first, second = data.questions("test")
        assert (first.id, second.id) == ("music_avqa/test/7", "music_avqa/test/7/2")
        assert first.media == "MUSIC-AVQA-videos-Real/00000093.mp4"
        assert first.text == "How many sounding acoustic guitar in the video?"
        assert first.options == NUMBERS
        assert (first.answer_text, second.answer_text) == ("three", "more than ten")
        assert (first.category, first.metadata["modality"]) == ("Counting", "Audio-Visual")
        for validate in (True, False):
            everything = MusicAVQADataModule(
                str(tmp_path), subset="all", validate_media=validate, report_dir=str(tmp_path / "report")
            )
            assert everything.questions("test")[2].media == "MUSIC-AVQA-videos-Synthetic/sa00000001.mp4"

    def test_says_how_many_questions_are_left_aside_and_why(self, tmp_path: Path, monkeypatch) -> None:
        kinds = ("Audio", "Visual", "Audio-Visual", "Visual", "Visual")
        rows = [
            {
                "video_id": "00000093",
                "question_id": number,
                "type": json.dumps([kind, "Counting"]),
                "question_content": "How many instruments are sounding?",
                "templ_values": "[]",
                "anser": "two",
            }
            for number, kind in enumerate(kinds)
        ]
        (tmp_path / "music_avqa").mkdir()
        (tmp_path / "music_avqa" / "avqa-test.json").write_text(json.dumps(rows))
        said: list[str] = []
        monkeypatch.setattr("datamodules.reading.splits.rank_zero_info", said.append)
        monkeypatch.setattr("evaluation.benchmarks.rank_zero_info", said.append)
        MusicAVQADataModule(str(tmp_path / "music_avqa"), validate_media=False).questions("test")
        assert said == ["music_avqa-test: 2 questions, 3 that are purely visual left aside"]
        read_questions("music_avqa", tmp_path)
        assert said[1:] == [
            "music_avqa-test: 5 questions",
            "music_avqa: 3 of these are purely visual, and count for runs that have answered such",
        ]

    @pytest.mark.parametrize(
        ("template", "answers"),
        [
            ("Is there a <Object> sound?", ("yes", "no")),
            ("Are there <Object> and <Object> sound? ", ("yes", "no")),
            ("How many instruments are sounding in the video?", NUMBERS),
            ("Where is the <LL> instrument?", ("left", "middle", "right")),
            ("Where is the performance?", ("indoor", "outdoor")),
            ("Which <Object> makes the sound <FL>?", ("left", "middle", "right", "simultaneously")),
            ("Which instrument makes sounds <BA> the <Object>?", INSTRUMENTS),
            ("What is the <TH> instrument that comes in?", INSTRUMENTS),
        ],
    )
    def test_answers_of_each_kind(self, template: str, answers: tuple[str, ...]) -> None:
        assert answers_of(template) == answers

    def test_templates_are_filled_in_order(self) -> None:
        template = "Is the <Object> on the <LR> louder than the <Object> on the <LR>?"
        values = ["banjo", "left", "electric_bass", "right"]
        assert fill_template(template, values) == "Is the banjo on the left louder than the electric bass on the right?"

    @needs_shared
    @pytest.mark.parametrize(("subset", "number"), [("all", 9185), ("non-visual", 6758)])
    def test_no_row_of_the_real_file_is_lost(self, tmp_path: Path, subset: Any, number: int) -> None:
        data = MusicAVQADataModule(
            str(SHARED / "music_avqa"),
            subset=subset,
            validate_media=False,
            on_bad_record="raise",
            report_dir=str(tmp_path),
        )
        questions = data.questions("test")
        assert len(questions) == len({question.id for question in questions}) == number
        assert not any("<" in question.text or "_" in question.text for question in questions)
        assert all(question.text.endswith("?") for question in questions)
        categories = Counter(question.category for question in questions)
        assert categories["Existential"] == 995
        assert categories["Temporal"] == 824
        assert categories["Comparative"] == 1716
        assert categories["Counting"] == (3495 if subset == "all" else 2296)
        assert categories["Location"] == (2155 if subset == "all" else 927)
        answers = {question.answer_text for question in questions}
        assert len(answers) == (41 if subset == "all" else 39)  # all but indoor and outdoor


@pytest.mark.parametrize("kind", [AVQADataModule, MMAUDataModule, MusicAVQADataModule, TracesDataModule])
def test_every_setting_has_help_and_is_checked(kind: type[AudioQADataModule]) -> None:
    def run(*args: str) -> str:
        out = io.StringIO()
        with redirect_stdout(out), pytest.raises(SystemExit):
            LightningCLI(LightningModule, AudioQADataModule, subclass_mode_data=True, run=False, args=list(args))
        return out.getvalue()

    text = " ".join(run(f"--data.help={kind.__module__}.{kind.__name__}").split())
    for part in (
        "--data.batch_size BATCH_SIZE Questions in a training batch of one device.",
        "--data.prompt",
        "--data.validate_media",
        "Folder that keeps decoded waveforms",
        "--data.root",
    ):
        assert part in text.replace("--data.init_args.", "--data."), part


def test_a_prompt_can_be_given_by_name_or_in_full(tmp_path: Path) -> None:
    def parsed(prompt: str) -> Any:
        cli = LightningCLI(
            LightningModule,
            AudioQADataModule,
            subclass_mode_data=True,
            run=False,
            args=[
                "--data=datamodules.MMAUDataModule",
                f"--data.root={tmp_path}",
                f"--data.prompt={prompt}",
                "--trainer.logger=false",
                f"--trainer.default_root_dir={tmp_path}",
            ],
        )
        return cli.datamodule.prompt

    assert parsed("direct").name == "direct"
    assert parsed('{"name": "mine", "template": "{question} {options}"}') == Prompt("mine", "{question} {options}")


def test_collator_is_made_once(write_avqa: Callable[..., Path], processor_dir: str) -> None:
    data = AVQADataModule(str(write_avqa([avqa_row(0)], [])), processor=processor_dir)
    assert isinstance(data.collator, Collator)
    assert data.collator is data.collator
