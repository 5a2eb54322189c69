"""The teacher's reasoning in the student's prompt."""

from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.avqa import AVQADataModule
from datamodules.avqa_video import AVQAVideoDataModule
from datamodules.prompts.questions import COT_DISTILL, DIRECT
from datamodules.reading.hints import read_hints, with_hint
from records.records import Question, RecordError, Trace, write_jsonl
from runtime.errors import UserError
from tests.support.dataset_files import avqa_row

QUESTION = Question("avqa/val/1", "avqa", "a.mp4", "What is it?", ("a dog", "a cat"), 0, "Which")


def traces(folder: Path, *made: Trace) -> str:
    write_jsonl(folder / "traces" / "rank-00000.jsonl", made)
    return str(folder / "traces")


def test_the_first_trace_with_reasoning_is_the_hint(tmp_path: Path) -> None:
    folder = traces(
        tmp_path,
        Trace("avqa/val/1", 2, "third", "a dog", "t"),
        Trace("avqa/val/1", 1, " A dog <|im_end|>barks. ", "a dog", "t"),
        Trace("avqa/val/1", 0, "  ", "a cat", "t"),
        Trace("avqa/train/1", 0, "another question", "a cat", "t"),
    )
    assert read_hints([folder], [QUESTION]) == {"avqa/val/1": "A dog barks."}


def test_a_trace_of_a_changed_question_is_no_hint(tmp_path: Path) -> None:
    old = Trace("avqa/val/1", 0, "a car", "a dog", "t", question_fingerprint="0" * 12)
    new = Trace("avqa/val/1", 1, "a dog barks", "a dog", "t", question_fingerprint=QUESTION.fingerprint)
    with pytest.warns(UserWarning, match=r"1 traces are of questions that have changed since \(avqa/val/1 is the"):
        assert read_hints([traces(tmp_path, old, new)], [QUESTION]) == {"avqa/val/1": "a dog barks"}


def test_hints_of_other_questions_are_an_error(tmp_path: Path) -> None:
    folder = traces(tmp_path, Trace("avqa/train/1", 0, "a dog barks", "a dog", "t"))
    with pytest.raises(RecordError, match=r"no trace is of a question that is asked; .*predict_split=val"):
        read_hints([folder], [QUESTION])


def test_the_prompt_shows_the_hint_or_says_that_there_is_none() -> None:
    assert "\nA dog barks.\n" in COT_DISTILL.render(with_hint(QUESTION, "A dog barks."))
    assert with_hint(QUESTION, None) == QUESTION and "\nNothing.\n" in COT_DISTILL.render(QUESTION)
    assert DIRECT.render(with_hint(QUESTION, "A dog barks.")) == DIRECT.render(QUESTION)
    assert COT_DISTILL.takes_hint and not DIRECT.takes_hint


def test_questions_carry_their_hints_and_those_without_are_counted(
    tmp_path: Path, write_avqa: Callable[..., Path], processor_dir: str
) -> None:
    root = write_avqa(val=[avqa_row(0), avqa_row(1), avqa_row(2)])
    folder = traces(tmp_path, Trace("avqa/val/0", 0, "zero", "x", "t"), Trace("avqa/val/2", 0, "two", "x", "t"))
    data = AVQADataModule(
        str(root), processor=processor_dir, prompt="cot-distill", hints=folder, num_workers=0, eval_batch_size=3
    )
    with pytest.warns(UserWarning, match="2 of 3 questions are asked with the teacher's reasoning, 1 without"):
        (batch,) = list(data.test_dataloader())
    texts = [data.collator.text(question) for question in batch.questions]
    assert ["\nzero\n" in texts[0], "\nNothing.\n" in texts[1], "\ntwo\n" in texts[2]] == [True] * 3
    assert "hint" not in data.questions("test")[0].metadata, "training and other loaders are left as they are"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"hints": "traces"}, "needs a prompt with a place for them"),
        ({"prompt": "cot-distill"}, "needs the teacher's traces"),
        ({"prompt": "teacher-cot"}, "speaks of video, but the model gets audio"),
    ],
)
def test_prompt_and_hints_belong_together(tmp_path: Path, settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        AVQADataModule(str(tmp_path), **settings)


def test_the_teacher_gets_no_hints(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.hints and data\.requests are for benchmarks"):
        AVQAVideoDataModule(str(tmp_path), prompt="cot-distill", hints="traces")
