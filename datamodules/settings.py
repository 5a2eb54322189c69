"""What all datasets of questions about clips are told."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from datamodules.batching.clip_requests import RequestSettings
from datamodules.evaluation_variant import EvaluationVariant
from datamodules.hearing import HearingSettings
from datamodules.media.probes import ProbeName
from datamodules.prompts.questions import PROMPTS, TEACHER_PROMPTS, Prompt, PromptName, TeacherPromptName
from datamodules.reading.record_report import BadRecordPolicy
from records.record_files import listed
from runtime.errors import UserError, refuse_below


@dataclass(frozen=True)
class DataSettings:
    """Which questions there are, how they are asked, and how batches are made of them.

    Attributes:
        root: Folder with the dataset as downloaded.
        processor: Hub name or folder of the processor; null takes the one of the model that is trained.
        prompt: Name of a prompt of ``datamodules.prompts.questions``, or a prompt's own name and template.
        batch_size: Questions in a training batch of one device.
        eval_batch_size: Questions in a batch of validation, test and prediction; null takes ``batch_size``.
        num_workers: Processes of each loader that decode clips and compute features; 0 uses the main process.
        max_seconds: Seconds of a clip that are used. What the feature extractor cannot hear is cut in any case.
        on_bad_record: What to do with a row or clip that cannot be used: leave it out and report it, or stop.
        validate_media: Before the start, look for missing clips and decode each clip once to find corrupt ones; what
            was found is remembered in ``report_dir``. Without it, a bad clip stops the run when it is reached.
        follow_links: Accept clips that are symbolic links to outside ``root``.
        clips: Clips of a corpus as ``python -m corpus clips`` writes them: a file, a folder of files, or a list.
            A question's clip is then named by its id there, and only that part of the file is decoded; null where each
            clip is a file of its own.
        clips_root: Folder that the clips' paths are relative to; null is ``root``.
        cache_dir: Folder that keeps decoded waveforms; null decodes each time.
        report_dir: Folder of the report on bad records and of the index of checked clips; null is a folder beside
            ``root`` whose name ends in ``-report``.
        limit: Use only the first so many usable questions of each split.
        seed: Seed of the order of training.
        length_bucket: Sort the questions of so many successive training batches by length (clip and targets), so that a
            batch holds questions of similar length; 1 leaves the random order as it is. Which questions share a bucket,
            and the order of its batches, stay random.
        probe: In validation, test and prediction, replace the audio by silence, by another clip's (swap) or by noise of
            the same level; null leaves it. Training is never probed.
        option_order: In validation, test and prediction, show the options in an order drawn from this seed; null keeps
            the file's order.
        hints: In validation, test and prediction, put the teacher's reasoning into the prompt, which must have a place
            for it, as ``cot-distill`` has: a file of traces, a folder of such files, or a list of both. Of each
            question the first trace counts; how many questions have none is said.
        requests: In validation, test and prediction, prepare questions for a model behind an endpoint
            (``lightning_modules.RemoteQAModule``) and say what is sent of each clip; null makes batches for a model
            that is loaded here. ``validate_media`` looks at the sound only: with it set to false, clips that cannot be
            decoded become questions without an answer.
        hearing: Ask part of validation again with another sound and log ``val/hearing_gap``, for a student that is
            loaded here or served; null asks once.
        silent_answers: Leave out of training what the student answers right without hearing: files and folders of the
            answers that ``SilentAnswersModule`` wrote; null leaves out nothing.
    """

    root: str
    _: KW_ONLY
    processor: str | None = None
    prompt: PromptName | TeacherPromptName | Prompt = "think"
    batch_size: int = 4
    eval_batch_size: int | None = None
    num_workers: int = 2
    max_seconds: float = 30.0
    on_bad_record: BadRecordPolicy = "skip"
    validate_media: bool = True
    follow_links: bool = False
    clips: str | list[str] | None = None
    clips_root: str | None = None
    cache_dir: str | None = None
    report_dir: str | None = None
    limit: int | None = None
    seed: int = 0
    length_bucket: int = 1
    probe: ProbeName | None = None
    option_order: int | None = None
    hints: str | list[str] | None = None
    requests: RequestSettings | None = None
    hearing: HearingSettings | None = None
    silent_answers: str | list[str] | None = None

    def __post_init__(self) -> None:
        refuse_none(
            batch_size=self.batch_size,
            eval_batch_size=self.eval_batch_size,
            limit=self.limit,
            length_bucket=self.length_bucket,
        )
        refuse_below(0, "data.", num_workers=self.num_workers)
        if self.max_seconds <= 0:
            raise UserError(f"data.max_seconds must be more than 0, found {self.max_seconds}")
        if self.hearing is not None and (self.probe or self.requests):
            other = "data.probe" if self.probe else "data.requests"
            raise UserError(f"data.hearing asks with several sounds, {other} says otherwise: set one of them to null")
        self.whole_prompt  # noqa: B018  (refuses a name that there is not)

    @property
    def whole_prompt(self) -> Prompt:
        """How questions are asked.

        Raises:
            UserError: No prompt has the name.
        """
        if not isinstance(self.prompt, str):
            return self.prompt
        prompts = PROMPTS | TEACHER_PROMPTS
        if self.prompt not in prompts:
            raise UserError(f"data.prompt must be one of {', '.join(prompts)}, found {self.prompt!r}")
        return prompts[self.prompt]

    @property
    def evaluated_at_once(self) -> int:
        """Questions in a batch of validation, test and prediction."""
        return self.eval_batch_size or self.batch_size

    @property
    def variant(self) -> EvaluationVariant:
        """How evaluation asks questions otherwise than the file has them."""
        return EvaluationVariant(self.probe, self.option_order, tuple(listed(self.hints)))

    @property
    def reports(self) -> Path:
        """Folder of the report on bad records and of the index of checked clips."""
        root = Path(self.root)
        return Path(self.report_dir) if self.report_dir else root.parent / f"{root.name}-report"


def refuse_none(**settings: int | None) -> None:
    """Refuse numbers below 1.

    Args:
        **settings: Settings of a DataModule by name; None is not set.

    Raises:
        UserError: One is below 1.
    """
    for name, value in settings.items():
        if value is not None and value < 1:
            raise UserError(f"data.{name} must be 1 or more, found {value}")
