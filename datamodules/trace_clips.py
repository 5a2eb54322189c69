"""The teacher's traces with the true sound of their clips: what the checker reads and hears."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from datamodules.avqa import AVQADataModule
from datamodules.avqa_video import own_share
from datamodules.media.audio import ClipFolder, MediaError, WavFormat, wav_base64
from datamodules.media.media_files import MomentaryMediaError
from datamodules.traces import answered_option
from records.record_files import record_files
from records.records import Question, RecordError, Trace, read_jsonl


@dataclass(frozen=True)
class TracedClip:
    """The traces of one question with the sound of its clip.

    Attributes:
        question: The question.
        traces: Its traces.
        wav: The clip as a WAV file in base64.
        error: Why there is none, or None.
        lasting: Whether the same would be found later: False where the machine was at fault and not the file.
    """

    question: Question
    traces: tuple[Trace, ...]
    wav: str = ""
    error: str | None = None
    lasting: bool = True


class TracedClips(Dataset[TracedClip]):
    """Traced questions whose sound is prepared when it is asked for, that is in the DataLoader's workers."""

    def __init__(
        self, questions: list[Question], traces: dict[str, list[Trace]], clips: ClipFolder, wav_format: WavFormat
    ) -> None:
        """Make the dataset.

        Args:
            questions: The questions.
            traces: Their traces by the question's id.
            clips: Where their clips are.
            wav_format: How samples are written.
        """
        self.questions = questions
        self.traces = traces
        self.clips = clips
        self.wav_format = wav_format

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.questions)

    def __getitem__(self, index: int) -> TracedClip:
        """Return the traces of a question with its clip, or with the reason why there is none."""
        question = self.questions[index]
        traces = tuple(self.traces[question.id])
        try:
            waveform = self.clips.load(question.media)
        except MediaError as error:
            lasting = not isinstance(error, MomentaryMediaError)
            return TracedClip(question, traces, error=str(error), lasting=lasting)
        return TracedClip(question, traces, wav_base64(waveform, self.wav_format))


class TraceClipsDataModule(AVQADataModule):
    """The traces to check, each question's together with the true sound of its clip.

    Serves ``predict``. Traces whose verdicts are on disk are left out by the module, questions that have no other are
    not decoded again. A clip that cannot be decoded becomes an error record and does not stop the run.
    """

    can_probe = False

    def __init__(
        self,
        root: str,
        traces: str | list[str],
        unanimous: bool = False,
        wav_format: WavFormat = "pcm16",
        validate_media: bool = False,
        **settings: Any,
    ) -> None:
        """Describe the data; nothing is read before ``setup``.

        Args:
            root: Folder with AVQA as downloaded.
            traces: A file of traces, a folder of such files, or a list of files and folders.
            unanimous: Check only the traces of questions whose traces all chose the same option; saves requests when
                nothing else is going to be used.
            wav_format: How the samples are sent: 16-bit integers, which every server reads, or 32-bit floats.
            validate_media: Decode each clip once before the start; without it, bad clips become error records when
                they are reached.
            **settings: As for AVQADataModule, for example ``media_dir``, ``eval_batch_size`` and ``num_workers``.
        """
        super().__init__(root=root, validate_media=validate_media, **settings)
        self.trace_files = [traces] if isinstance(traces, str) else list(traces)
        self.unanimous = unanimous
        self.wav_format: WavFormat = wav_format
        self._traces: dict[str, list[Trace]] | None = None

    @property
    def traces(self) -> dict[str, list[Trace]]:
        """The traces to check by their question's id, in the order of their samples.

        Raises:
            RecordError: A file is missing or malformed, or no trace is of a question in the data.
        """
        if self._traces is None:
            questions = {question.id: question for question in self.questions("predict")}
            self._traces = traces_by_question(self.trace_files, questions, self.unanimous)
        return self._traces

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Leave a batch where it is: it goes to another machine."""
        return batch

    def unchecked(self) -> list[Question]:
        """Return this rank's share of the questions with traces that have no verdict on disk."""
        self._check_distributed()
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
        return DataLoader(
            TracedClips(self.unchecked(), self.traces, self.clips, self.wav_format),
            batch_size=self.eval_batch_size,
            collate_fn=list,
            **self._loader_settings(),
        )


def traces_by_question(files: Sequence[str], questions: dict[str, Question], unanimous: bool) -> dict[str, list[Trace]]:
    """Return the traces of some questions, by the question's id, in the order of their samples.

    Args:
        files: Files of traces and folders of such files.
        questions: The questions by their id.
        unanimous: Leave out questions whose traces do not all choose the same option.

    Raises:
        RecordError: A file is missing or malformed, or no trace is of these questions.
    """
    found: dict[str, dict[int, Trace]] = defaultdict(dict)
    unknown = 0
    for file in record_files(files):
        for trace in read_jsonl(file, Trace):
            if trace.question_id in questions:
                found[trace.question_id].setdefault(trace.sample, trace)
            else:
                unknown += 1
    if not found:
        raise RecordError(f"{', '.join(files)}: no trace is of a question in the data")
    if unknown:
        rank_zero_warn(f"{unknown} traces are of questions that are not in the data; they are left out")
    traces = {key: [samples[sample] for sample in sorted(samples)] for key, samples in found.items()}
    if unanimous:
        traces = {key: some for key, some in traces.items() if is_unanimous(some, questions[key])}
    return traces


def is_unanimous(traces: Sequence[Trace], question: Question) -> bool:
    """Return True when all traces chose the same option (|unique(A)| = 1)."""
    answers = {answered_option(trace, question) for trace in traces}
    return len(answers) == 1 and None not in answers
