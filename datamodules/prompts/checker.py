"""The checker's prompts, versioned: change a template, raise its version. It hears the clip (paper, section 3.2)."""

from dataclasses import dataclass

from records.records import Question


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

CHECK_ANSWER = CheckPrompt(
    name="check-answer",
    template=(
        "Listen to the audio. This question was asked about it: {question}\nThis is an answer: {answer}\n"
        "Is that a right answer, going by what you hear? Answer with yes or no only."
    ),
)
"""One question about an answer to a question, whoever gave it and for whatever reasons."""
