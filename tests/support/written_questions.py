"""Questions, proposals and votes for tests of the gates."""

from records.proposed_question import ProposedQuestion
from records.records import Question, Trace, Verdict


def asked(text: str, *options: str, answer: int | None = 0, id: str = "avqa/train/a.0") -> Question:
    """A question; its first option is the answer unless said otherwise."""
    return Question(id, "avqa", "a", text, options, answer, "Which", {"question_relation": "Sound"})


def proposal(clip: str, sample: int, text: str, *options: str, fault: str = "") -> ProposedQuestion:
    """What a writer said; its first option is the answer."""
    return ProposedQuestion(clip, sample, "Which", "as it was said", text, options, fault, "writer", "", "write/1")


def votes(question_id: str, *answers: str | None) -> list[Trace]:
    """Traces that chose these options."""
    return [Trace(question_id, sample, "I hear it.", answer, "teacher") for sample, answer in enumerate(answers)]


def heard(question_id: str, accepted: bool, samples: int = 2) -> list[Verdict]:
    """Verdicts on the answer."""
    return [
        Verdict(question_id, sample, accepted, "checker", 0.9 if accepted else 0.1, "answer", ("yes 0.900: a dog",))
        for sample in range(samples)
    ]
