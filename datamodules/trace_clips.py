"""The teacher's traces with the true sound of their clips: what the checker reads and hears."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from datamodules.avqa import AVQADataModule, AVQASettings
from datamodules.batching.items import Prepared, traced_clip
from datamodules.batching.loading import SentBatch, loader_settings, own_share
from datamodules.media.audio import WavFormat
from datamodules.reading.self_consistency import by_question, is_unanimous
from records.changed_questions import without_changed
from records.record_files import listed, read_records
from records.records import Question, RecordError, Trace
from runtime.settings import takes


@dataclass(frozen=True, kw_only=True)
class TraceClipsSettings(AVQASettings):
    """Traces to check, beside what is said in :class:`.avqa.AVQASettings`.

    Attributes:
        traces: A file of traces, a folder of such files, or a list of files and folders.
        unanimous: Check only the traces of questions whose traces all chose the same option; saves requests when
            nothing else is going to be used.
        wav_format: How the samples are sent: 16-bit integers, which every server reads, or 32-bit floats.
        validate_media: Decode each clip once before the start; without it, bad clips become error records when they are
            reached.
    """

    traces: str | list[str]
    unanimous: bool = False
    wav_format: WavFormat = "pcm16"
    validate_media: bool = False


class TraceClipsDataModule(AVQADataModule):
    """The traces to check, each question's together with the true sound of its clip.

    Serves ``predict``. Traces whose verdicts are on disk are left out by the module, questions that have no other are
    not decoded again. A clip that cannot be decoded becomes an error record and does not stop the run.
    """

    can_probe = False

    settings: TraceClipsSettings

    @takes(TraceClipsSettings)
    def __init__(self, *root: Any, **settings: Any) -> None:
        """Describe the data, as :class:`TraceClipsSettings` does; nothing is read before ``setup``."""
        self.describe(TraceClipsSettings(*root, **settings))

    @cached_property
    def traces(self) -> dict[str, list[Trace]]:
        """The traces to check by their question's id, in the order of their samples.

        Raises:
            RecordError: A file is missing or malformed, or no trace is of a question in the data.
        """
        questions = {question.id: question for question in self.questions("predict")}
        return traces_to_check(listed(self.settings.traces), questions, self.settings.unanimous)

    def unchecked(self) -> list[Question]:
        """Return this rank's share of the questions with traces that have no verdict on disk."""
        traces = self.traces
        questions = [question for question in self.questions("predict") if question.id in traces]
        return [question for question in own_share(self.trainer, questions) if self.unchecked_traces(question)]

    def unchecked_traces(self, question: Question) -> tuple[Trace, ...]:
        """Return a question's traces that have no verdict on disk."""
        traces = self.traces[question.id]
        left = set(self.completed.remaining(question.id, (trace.sample for trace in traces)))
        return tuple(trace for trace in traces if trace.sample in left)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return this rank's share of the questions with traces that are not all checked yet."""
        prepare = partial(traced_clip, traces=self.traces, clips=self.clips, wav_format=self.settings.wav_format)
        return DataLoader(
            Prepared(self.unchecked(), prepare),
            batch_size=self.settings.evaluated_at_once,
            collate_fn=SentBatch,
            **loader_settings(self.settings.num_workers),
        )


def traces_to_check(files: Sequence[str], questions: dict[str, Question], unanimous: bool) -> dict[str, list[Trace]]:
    """Return the traces of some questions, by the question's id, in the order of their samples.

    Args:
        files: Files of traces and folders of such files.
        questions: The questions by their id.
        unanimous: Leave out questions whose traces do not all choose the same option.

    Raises:
        RecordError: A file is missing or malformed, or no trace is of these questions.
    """
    all_traces, changed = without_changed(read_records(files, Trace), questions.values())
    known = [trace for trace in all_traces if trace.question_id in questions]
    said = ""
    if changed:
        said = f"{len(changed)} traces are of questions that have changed since ({changed[0].question_id} is the first)"
    if not known:
        raise RecordError(f"{', '.join(files)}: no trace is of a question in the data{said and f', {said}'}")
    if changed:
        rank_zero_warn(
            f"{', '.join(files)}: {said} and are left out; have them made again by the teacher, or restore the old "
            "questions"
        )
    if unknown := len(all_traces) - len(known):
        rank_zero_warn(f"{unknown} traces are of questions that are not in the data; they are left out")
    traces = by_question(known)
    if unanimous:
        traces = {key: some for key, some in traces.items() if is_unanimous(some, questions[key])}
    return traces
