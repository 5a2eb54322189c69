"""Every prompt of the teacher and of the checker, versioned: change a template, raise its version.

The teacher sees silent frames (paper, section 3.1); the checker hears the clip and reads the teacher's trace (3.2).
"""

from dataclasses import dataclass
from typing import Literal

from datamodules.prompts import Prompt
from datamodules.records import Question

TEACHER_DIRECT = Prompt(
    name="teacher-direct",
    template=(
        "These are frames of a video, in order.\n{question}\nOptions:\n{options}\n"
        "Give only the text of the right option inside <answer> </answer>."
    ),
)
"""Asks the teacher for the answer alone."""

TEACHER_COT = Prompt(
    name="teacher-cot",
    template=(
        "These are frames of a video, in order.\n{question}\nOptions:\n{options}\n"
        "Let's think step by step. Write the reasoning inside <think> </think> and then the text of the right option "
        "inside <answer> </answer>."
    ),
)
"""Zero-shot chain of thought."""

TEACHER_AUDIO_COT = Prompt(
    name="teacher-audio-cot",
    template=(
        "These are frames of a video, in order. Its sound was removed; the question is about what is heard.\n"
        "{question}\nOptions:\n{options}\n"
        "Work out what the sound must be from what is seen: which things make a sound, what kind of sound, when, in "
        "which order, how many, how loud. Inside <think> </think> reason step by step about these sounds as someone "
        "who hears the clip, and do not mention frames, pictures or colours. Then give the text of the right option "
        "inside <answer> </answer>."
    ),
)
"""Audio-focused chain of thought: P_audio of the paper."""

TeacherPromptName = Literal["teacher-direct", "teacher-cot", "teacher-audio-cot"]

TEACHER_PROMPTS: dict[str, Prompt] = {p.name: p for p in (TEACHER_DIRECT, TEACHER_COT, TEACHER_AUDIO_COT)}


@dataclass(frozen=True)
class CheckPrompt:
    """A text of the checker's.

    Attributes:
        name: What it is called in records.
        template: The text, with some of ``{question}``, ``{reasoning}``, ``{answer}`` and ``{claim}`` in it.
        version: Raised whenever the template changes.
    """

    name: str
    template: str
    version: int = 1

    @property
    def identifier(self) -> str:
        """Name and version, as records keep it."""
        return f"{self.name}/{self.version}"

    def render(self, question: Question, reasoning: str = "", answer: str = "", claim: str = "") -> str:
        """Return the text."""
        return self.template.format(question=question.text, reasoning=reasoning, answer=answer, claim=claim)


CHECK_TRACE = CheckPrompt(
    name="check-trace",
    template=(
        "Listen to the audio. Someone who could not hear it was asked: {question}\n"
        "This is the reasoning:\n{reasoning}\nThe answer was: {answer}\n"
        "Does everything that the reasoning and the answer say about sounds fit what you hear? Answer with yes or no "
        "only."
    ),
)
"""AGFV of the paper: one question about the whole trace."""

LIST_CLAIMS = CheckPrompt(
    name="list-claims",
    template=(
        "This is a reasoning about the sounds of a clip, for the question: {question}\n{reasoning}\n"
        "List each claim that it makes about what is heard, one short sentence a line, each beginning with a dash. "
        "Write none if there is no such claim."
    ),
)
"""Asks, without the audio, for a trace's claims about sounds."""

CHECK_CLAIM = CheckPrompt(
    name="check-claim",
    template=("Listen to the audio. Is this true of what you hear?\n{claim}\nAnswer with yes or no only."),
)
"""One question about one claim."""
