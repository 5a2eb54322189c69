"""How validation, test and prediction ask questions otherwise than the file has them: probes, option order, hints."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.batching.clip_requests import RequestSettings
from datamodules.media.audio import ClipFolder
from datamodules.media.probes import Clips, ProbedClips, ProbeName, derangement, mark, shuffle_options
from datamodules.prompts.questions import PROMPTS, TEACHER_PROMPTS, Prompt
from datamodules.reading.hints import read_hints, with_hint
from records.records import Question
from runtime.errors import UserError


@dataclass(frozen=True)
class EvaluationVariant:
    """How questions are asked in evaluation.

    Attributes:
        probe: What is heard in the clip's place, or None.
        option_order: Seed of the options' order; None keeps the file's.
        hints: Files and folders of the teacher's traces whose reasoning is put into the prompt.
    """

    probe: ProbeName | None = None
    option_order: int | None = None
    hints: tuple[str, ...] = ()

    def asked(self, questions: Sequence[Question], say_for: str | None = None) -> list[Question]:
        """Return questions as evaluation asks them.

        Args:
            questions: The questions as the file has them, all ranks' together.
            say_for: Say how many questions have no hint, under this dataset's name; None says nothing.
        """
        hints = read_hints(self.hints, questions) if self.hints else {}
        if self.hints and say_for is not None:
            say = rank_zero_info if len(hints) == len(questions) else rank_zero_warn
            say(
                f"{say_for}: {len(hints)} of {len(questions)} questions are asked with the teacher's reasoning, "
                f"{len(questions) - len(hints)} without, because they have no trace in {', '.join(self.hints)}"
            )
        return [self._ask(question, hints.get(question.id)) for question in questions]

    def _ask(self, question: Question, hint: str | None) -> Question:
        question = with_hint(question, hint)
        if self.option_order is not None:
            question = shuffle_options(question, self.option_order)
        return mark(question, self.probe) if self.probe else question

    def heard(self, clips: ClipFolder, questions: Sequence[Question]) -> Clips:
        """Return what evaluation lets the model hear.

        Args:
            clips: The true clips.
            questions: The questions, all ranks' together.
        """
        if self.probe is None:
            return clips
        others = derangement(question.media for question in questions) if self.probe == "swap" else {}
        return ProbedClips(clips, self.probe, others)


def check_prompt(prompt: Prompt, variant: EvaluationVariant, requests: RequestSettings | None) -> None:
    """Refuse a prompt that speaks of something that the model does not get.

    Args:
        prompt: How questions are asked.
        variant: How evaluation asks them otherwise.
        requests: What is sent of a clip to an endpoint; None for a model that is loaded here.

    Raises:
        UserError: The prompt and what the model gets do not fit.
    """
    name = prompt.name
    gets = "audio" if requests is None else requests.modalities
    if prompt.modalities != gets:
        fitting = [p.name for p in (PROMPTS | TEACHER_PROMPTS).values() if p.modalities == gets]
        raise UserError(
            f"data.prompt {name!r} speaks of {prompt.modalities}, but the model gets {gets} "
            f"(data.requests.modalities): choose one of {', '.join(fitting)}, or set the prompt's own modalities"
        )
    if variant.hints and not prompt.takes_hint:
        raise UserError(f"data.hints needs a prompt with a place for them, as cot-distill has; {name!r} has none")
    if prompt.takes_hint and not variant.hints:
        raise UserError(f"data.prompt {name!r} needs the teacher's traces: set data.hints to their folder")
    if variant.probe and gets == "video":
        raise UserError("data.probe tampers with the audio, of which nothing is sent (data.requests.modalities)")
