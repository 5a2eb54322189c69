"""Whether the student hears: what of validation is asked again with another sound, and what is not trained on."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.batching.items import Item
from datamodules.evaluation_variant import EvaluationVariant
from datamodules.media.probes import ProbeName
from datamodules.reading.record_report import Finding, RecordReport
from records.changed_questions import without_changed
from records.record_files import read_records
from records.records import Question
from records.silent_answers import SilentAnswer, known_in_silence
from runtime.all_ranks import is_rank_zero
from runtime.errors import UserError

DEAF = "right without hearing"
"""Why a question is left out of training."""


@dataclass(frozen=True)
class HearingSettings:
    """Part of validation that is asked again with another sound.

    ``val/hearing_gap`` is the accuracy on these questions with their own sound, less the highest of their accuracies
    with another one: 0 for a student that answers from the text alone.

    Attributes:
        questions: How many questions; the first ones of validation, so that ``trainer.limit_val_batches`` leaves them.
        probes: What is heard in the clip's place, each in a pass of its own: silence, another clip (swap), noise.
        weight: How much the gap counts in ``val/score``, which is ``val/accuracy`` plus so many times the gap:
            something for BestCheckpoint and WeightsExport to monitor.
    """

    questions: int = 128
    probes: list[ProbeName] = field(default_factory=lambda: ["silence", "swap"])
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.questions < 1:
            raise UserError(f"data.hearing.questions is {self.questions}: at least 1 is needed")
        if not self.probes or len(set(self.probes)) < len(self.probes):
            raise UserError(f"data.hearing.probes needs probes, each once, found {self.probes}")

    def chosen(self, questions: Sequence[Question], devices: int) -> list[Question]:
        """Return the questions that are asked again.

        Args:
            questions: All of validation, all ranks' together.
            devices: How many ranks share them.

        Raises:
            UserError: Some rank would get none.
        """
        if self.questions < devices:
            raise UserError(f"data.hearing.questions is {self.questions}: each of the {devices} devices needs one")
        return list(questions[: self.questions])

    def variants(self, variant: EvaluationVariant) -> list[EvaluationVariant]:
        """Return how they are asked, one for each probe; else as validation asks them.

        Args:
            variant: How validation asks.
        """
        return [dataclasses.replace(variant, probe=probe) for probe in self.probes]


def heard_only(items: Sequence[Item], files: Sequence[str], dataset: str, report_dir: Path) -> list[Item]:
    """Leave out what the student answers right without hearing.

    Each question that is left out is named in a report beside that on bad records.

    Args:
        items: What would be trained on.
        files: Records of answers in silence: files and folders.
        dataset: What the questions are of.
        report_dir: Folder of the report.

    Raises:
        UserError: A file is missing or malformed, no answer is to a question that is trained on, or nothing remains.
    """
    questions = {item.question.id: item.question for item in items}
    answers, changed = without_changed(read_records(files, SilentAnswer), questions.values())
    named = ", ".join(files)
    if changed:
        rank_zero_warn(f"{named}: {len(changed)} answers are to questions that have changed since and do not count")
    asked = questions.keys() & {answer.question_id for answer in answers}
    if not asked:
        raise UserError(f"data.silent_answers: no answer in {named} is to a question that is trained on")
    known = known_in_silence(answers)
    kept = [item for item in items if item.question.id not in known]
    report = RecordReport()
    for place, question in enumerate(questions.values(), 1):
        if question.id in known:
            times = known[question.id]
            reason = f"answered right {times} of {times} times in silence"
            report.add(Finding(named, place, question.id, DEAF, reason))
    file = report_dir / f"{dataset}-train.silent.jsonl"
    if is_rank_zero():
        report.write(file)
    unasked = len(questions) - len(asked)
    say = rank_zero_warn if unasked else rank_zero_info
    say(
        f"{dataset}-train: {report.left_out} of {len(questions)} questions are left out, since the student answers "
        f"them right without hearing; each is named in {file}"
        + (f"; {unasked} were never asked in silence and stay" if unasked else "")
    )
    if not kept:
        raise UserError(f"data.silent_answers: all {len(questions)} questions are answered right without hearing")
    return kept
