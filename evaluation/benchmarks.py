"""The benchmarks as the scores see them: their questions, their columns, where their files are."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from datamodules.audio_qa import AudioQADataModule
from datamodules.avqa import AVQADataModule
from datamodules.mmau import MMAUDataModule
from datamodules.music_avqa import MusicAVQADataModule
from records.records import Question
from runtime.errors import UserError


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name: As in ids of questions, and the folder of its files.
        title: As in tables.
        categories: The categories that tables have a column for, in order; all others are in the average only.
        fixed_options: The annotation file itself lists each question's options.
    """

    name: str
    title: str
    categories: tuple[str, ...] = ()
    fixed_options: bool = True


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("avqa", "AVQA"),
        Benchmark("mmau", "MMAU", ("sound", "music", "speech")),
        Benchmark(
            "music_avqa", "MUSIC-AVQA", ("Existential", "Counting", "Comparative", "Temporal"), fixed_options=False
        ),
    )
}


def read_questions(
    name: str, data: Path, report_dir: str | None = None, annotations: Path | None = None
) -> list[Question]:
    """Read all questions of a benchmark from its annotation file; clips are not looked at.

    Args:
        name: A name in ``BENCHMARKS``.
        data: The folder that holds the benchmarks' folders.
        report_dir: Folder for the report on rows that were repaired or left out; null is the one that the DataModule
            uses, or a temporary one where that cannot be written.
        annotations: As for ``data_module``.

    Raises:
        UserError: The annotation file cannot be read.
    """
    questions = data_module(name, data / name, report_dir, annotations).questions("test")
    if visual := sum(map(is_visual, questions)):
        rank_zero_info(f"{name}: {visual} of these are purely visual, and count for runs that have answered such")
    return questions


def data_module(
    name: str, root: Path, report_dir: str | None = None, annotations: Path | None = None
) -> AudioQADataModule:
    """Return a DataModule that reads all questions of a benchmark, the purely visual ones of MUSIC-AVQA too.

    It does not look at the clips.

    Args:
        name: A name in ``BENCHMARKS``.
        root: The benchmark's folder.
        report_dir: As for ``read_questions``.
        annotations: MMAU's annotation file, where it is not ``mmau-test-mini.json`` in the folder.

    Raises:
        UserError: There is no such benchmark.
    """
    if report_dir is None and not os.access(root.parent, os.W_OK):
        report_dir = tempfile.mkdtemp(prefix=f"{name}-report-")
    settings: dict[str, Any] = {"report_dir": report_dir, "validate_media": False, "follow_links": True}
    if name == "avqa":
        return AVQADataModule(str(root), **settings)
    if name == "mmau" and annotations is not None:
        return MMAUDataModule(str(root), annotations=str(annotations.absolute()), **settings)
    if name == "mmau":
        return MMAUDataModule(str(root), **settings)
    if name == "music_avqa":
        return MusicAVQADataModule(str(root), subset="all", **settings)
    raise UserError(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")


def is_visual(question: Question) -> bool:
    """Return whether a question can be answered by looking only, so that the paper's average leaves it out."""
    return question.metadata.get("modality") == "Visual"


def asked(questions: Sequence[Question], answered: set[str]) -> list[Question]:
    """Return the questions that a run was asked: without the purely visual ones when it answered none of those."""
    if any(is_visual(question) and question.id in answered for question in questions):
        return list(questions)
    return [question for question in questions if not is_visual(question)]
