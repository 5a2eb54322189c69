"""The synthetic world on disk: the corpus and the small student."""

from dataclasses import replace
from pathlib import Path

from datamodules.avqa import AVQADataModule
from datamodules.prompts.questions import PROMPTS
from mini.stage_process import say
from mini.world.corpus import CorpusConfig, build_corpus
from mini.world.scale import StudentConfig
from mini.world.student import build_student
from records.reasoning_tags import tagged_answer, tagged_thought
from records.records import Trace, read_jsonl


def build_world(
    output: Path, seed: int, corpus: CorpusConfig | None = None, student: StudentConfig | None = None
) -> None:
    """Write corpus and small student below ``output``, or reuse what is there.

    Args:
        output: Where they go.
        seed: Seed of both.
        corpus: Size of the corpus.
        student: Size of the student.
    """
    built = build_corpus(output / "corpus", replace(corpus or CorpusConfig(), seed=seed), progress=say)
    build_student(
        output / "student", student_texts(built), replace(student or StudentConfig(), seed=seed), progress=say
    )


def student_texts(corpus: Path) -> list[str]:
    """Return what the student's tokenizer is trained on: the training questions as they are asked, and the traces."""
    data = AVQADataModule(str(corpus / "avqa"), validate_media=False)
    asked = [PROMPTS["think-short"].render(question) for question in data.questions("train")]
    traces = read_jsonl(corpus / "traces.jsonl", Trace)
    said = [tagged_thought(trace.reasoning) + tagged_answer(str(trace.answer)) for trace in traces]
    return [*asked, *said, *["system\nYou are a helpful assistant.\nuser\nAudio 1: \nassistant\n"] * 50]
