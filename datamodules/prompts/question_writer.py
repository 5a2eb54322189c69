"""How questions about a clip are asked for, versioned: change a template, raise its version."""

from dataclasses import dataclass

from datamodules.prompts.question_kinds import QuestionKind

NONE_SUCH = '{"question": null}'
"""What a writer says where a clip gives no question of the kind."""


@dataclass(frozen=True)
class WriterPrompt:
    """A text that asks for a question.

    Attributes:
        name: What it is called in records.
        template: The text, with ``<kind>`` and ``<asks>`` in it.
        version: Raised whenever the template changes.
    """

    name: str
    template: str
    version: int = 1

    @property
    def identifier(self) -> str:
        """Name and version, as records keep it."""
        return f"{self.name}/{self.version}"

    def render(self, kind: QuestionKind) -> str:
        """Return the text that asks for a question of a kind."""
        return self.template.replace("<kind>", kind.name).replace("<asks>", kind.asks)


WRITE_QUESTION = WriterPrompt(
    name="write-question",
    template=(
        "These are frames of a clip, in order. Its sound was removed.\n"
        "Write one multiple-choice question about what must be heard in the clip, of the kind: <kind> (<asks>).\n"
        "Someone who only listens must be able to answer it; someone who neither hears nor sees the clip must not. "
        'Speak of "the audio" and of what is heard: never of the video, of frames, pictures or colours, or of anything '
        "that is seen. Do not name the answer in the question. Give the right answer and three wrong ones that could "
        "be true of such a clip as well, all four short and about equally long.\n"
        "Reply with one JSON object and nothing else:\n"
        '{"question": "...", "answer": "...", "others": ["...", "...", "..."]}\n'
        f"If what is seen gives no good question of this kind, reply {NONE_SUCH}"
    ),
)
"""Asks for one question, its answer and three distractors."""
