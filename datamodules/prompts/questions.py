"""Every prompt that a student or the teacher is asked with, versioned: change a template, raise its version."""

import string
from dataclasses import dataclass
from typing import Literal

from records.records import Question
from runtime.errors import UserError

LETTERS = string.ascii_uppercase

Modalities = Literal["audio", "video", "audio_video"]
"""What a model gets of a clip: its sound, silent frames of it, or both."""

NO_CLIP = "text"
"""What a prompt speaks of that comes with no clip at all."""

NO_HINT = "Nothing."
"""Stands in the place of a hint where there is none."""


@dataclass(frozen=True)
class Prompt:
    """A template that turns a question into the text beside the audio.

    Attributes:
        name: What it is called in configs and records.
        template: The text, with ``{question}`` and ``{options}`` in it, and ``{hint}`` where the teacher's reasoning
            is to stand (``data.hints``).
        version: Raised whenever the template changes.
        separator: Stands between the options, each written as ``(A) text``.
        modalities: What the model gets beside the text, of which the text speaks; ``text`` is nothing.
    """

    name: str
    template: str
    version: int = 1
    separator: str = "\n"
    modalities: Modalities | Literal["text"] = "audio"

    def __post_init__(self) -> None:
        """Check that the template has both fields, and no other but ``{hint}``."""
        try:
            fields = self._fields
        except ValueError as error:
            raise UserError(f"prompt {self.name!r}: the template is broken ({error})") from None
        if fields - {"hint"} != {"question", "options"}:
            raise UserError(
                f"prompt {self.name!r}: the template must have the fields {{question}} and {{options}}, "
                f"found {sorted(fields) or 'none'}"
            )

    @property
    def identifier(self) -> str:
        """Name and version, as records keep it."""
        return f"{self.name}/{self.version}"

    @property
    def takes_hint(self) -> bool:
        """True where the template has a place for the teacher's reasoning."""
        return "hint" in self._fields

    @property
    def _fields(self) -> set[str]:
        return {field for _, field, _, _ in string.Formatter().parse(self.template) if field is not None}

    def render(self, question: Question) -> str:
        """Return the text that asks the question; a hint is in the question's metadata."""
        options = (f"({letter}) {text}" for letter, text in zip(LETTERS, question.options, strict=False))
        hint = question.metadata.get("hint") or NO_HINT
        return self.template.format(question=question.text, options=self.separator.join(options), hint=hint)


THINK = Prompt(
    name="think",
    template=(
        "{question}\nOptions:\n{options}\n"
        "Listen to the audio and reason about what can be heard, step by step, inside <think> </think>. "
        "Then give the text of the right option inside <answer> </answer>."
    ),
)
"""Asks for reasoning about the audio and then an answer: SFT on traces, GRPO."""

DIRECT = Prompt(
    name="direct",
    template=(
        "{question}\nOptions:\n{options}\n"
        "Listen to the audio and give only the text of the right option inside <answer> </answer>."
    ),
)
"""Asks for the answer alone."""

COT = Prompt(
    name="cot",
    template=(
        "{question}\nOptions:\n{options}\n"
        "Let's think step by step. Then give the text of the right option inside <answer> </answer>."
    ),
)
"""Chain of thought at test time, for a model that was not trained to reason."""

COT_DISTILL = Prompt(
    name="cot-distill",
    template=(
        "{question}\nOptions:\n{options}\n"
        "Someone who saw the clip without its sound reasoned about what must be heard:\n{hint}\n"
        "Listen to the audio and think step by step, with the help of this reasoning where it fits what you hear. "
        "Then give the text of the right option inside <answer> </answer>."
    ),
)
"""Distillation at test time: the teacher's reasoning is put into the student's prompt."""

THINK_SHORT = Prompt(name="think-short", template="{question} {options} think", separator=" ")
"""As THINK in few tokens, for small models."""

DIRECT_SHORT = Prompt(name="direct-short", template="{question} {options} answer", separator=" ")
"""As DIRECT in few tokens, for small models."""

AUDIO_VIDEO_DIRECT = Prompt(
    name="audio-video-direct",
    template=(
        "These are frames of a video, in order, and its sound.\n{question}\nOptions:\n{options}\n"
        "Look and listen, and give only the text of the right option inside <answer> </answer>."
    ),
    modalities="audio_video",
)
"""As DIRECT, for a model that sees and hears."""

AUDIO_VIDEO_COT = Prompt(
    name="audio-video-cot",
    template=(
        "These are frames of a video, in order, and its sound.\n{question}\nOptions:\n{options}\n"
        "Let's think step by step. Then give the text of the right option inside <answer> </answer>."
    ),
    modalities="audio_video",
)
"""As COT, for a model that sees and hears."""

PromptName = Literal[
    "think", "direct", "cot", "cot-distill", "think-short", "direct-short", "audio-video-direct", "audio-video-cot"
]

PROMPTS: dict[str, Prompt] = {
    prompt.name: prompt
    for prompt in (
        THINK,
        DIRECT,
        COT,
        COT_DISTILL,
        THINK_SHORT,
        DIRECT_SHORT,
        AUDIO_VIDEO_DIRECT,
        AUDIO_VIDEO_COT,
    )
}

TEACHER_DIRECT = Prompt(
    name="teacher-direct",
    template=(
        "These are frames of a video, in order.\n{question}\nOptions:\n{options}\n"
        "Give only the text of the right option inside <answer> </answer>."
    ),
    modalities="video",
)
"""Asks the teacher, who sees silent frames (paper, section 3.1), for the answer alone."""

TEACHER_COT = Prompt(
    name="teacher-cot",
    template=(
        "These are frames of a video, in order.\n{question}\nOptions:\n{options}\n"
        "Let's think step by step. Write the reasoning inside <think> </think> and then the text of the right option "
        "inside <answer> </answer>."
    ),
    modalities="video",
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
    modalities="video",
)
"""Audio-focused chain of thought: P_audio of the paper."""

PRIOR = Prompt(
    name="prior",
    template=(
        "This is a question about an audio clip that nobody will play to you.\n{question}\nOptions:\n{options}\n"
        "Say which option is most likely to be right, from the wording and from what you know of the world. Give only "
        "the text of that option inside <answer> </answer>."
    ),
    modalities="text",
)
"""Asks for an answer without a clip: what is answered then is given away by the question."""

TeacherPromptName = Literal["teacher-direct", "teacher-cot", "teacher-audio-cot", "prior"]

TEACHER_PROMPTS: dict[str, Prompt] = {p.name: p for p in (TEACHER_DIRECT, TEACHER_COT, TEACHER_AUDIO_COT, PRIOR)}
