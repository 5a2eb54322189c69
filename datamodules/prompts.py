"""Every prompt that a student is asked with, versioned: change a template, raise its version."""

import string
from dataclasses import dataclass
from typing import Literal

from datamodules.records import Question, UserError

LETTERS = string.ascii_uppercase


@dataclass(frozen=True)
class Prompt:
    """A template that turns a question into the text beside the audio.

    Attributes:
        name: What it is called in configs and records.
        template: The text, with ``{question}`` and ``{options}`` in it.
        version: Raised whenever the template changes.
        separator: Stands between the options, each written as ``(A) text``.
    """

    name: str
    template: str
    version: int = 1
    separator: str = "\n"

    def __post_init__(self) -> None:
        """Check that the template has both fields and no other."""
        try:
            fields = {field for _, field, _, _ in string.Formatter().parse(self.template) if field is not None}
        except ValueError as error:
            raise UserError(f"prompt {self.name!r}: the template is broken ({error})") from None
        if fields != {"question", "options"}:
            raise UserError(
                f"prompt {self.name!r}: the template must have the fields {{question}} and {{options}}, "
                f"found {sorted(fields) or 'none'}"
            )

    @property
    def identifier(self) -> str:
        """Name and version, as records keep it."""
        return f"{self.name}/{self.version}"

    def render(self, question: Question) -> str:
        """Return the text that asks the question."""
        options = (f"({letter}) {text}" for letter, text in zip(LETTERS, question.options, strict=False))
        return self.template.format(question=question.text, options=self.separator.join(options))


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

THINK_SHORT = Prompt(name="think-short", template="{question} {options} think", separator=" ")
"""As THINK in few tokens, for small models."""

DIRECT_SHORT = Prompt(name="direct-short", template="{question} {options} answer", separator=" ")
"""As DIRECT in few tokens, for small models."""

PromptName = Literal["think", "direct", "cot", "think-short", "direct-short"]

PROMPTS: dict[str, Prompt] = {prompt.name: prompt for prompt in (THINK, DIRECT, COT, THINK_SHORT, DIRECT_SHORT)}
