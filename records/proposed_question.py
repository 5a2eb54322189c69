"""What the writer of questions said of a clip, kept as it was said, and what became of it."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from records.records import Record


@dataclass(frozen=True)
class ProposedQuestion(Record):
    """One completion that was to be a multiple-choice question about a clip, with its provenance.

    Attributes:
        question_id: The clip; errors and usage of the stage name it so.
        sample: Which of the clip's questions, from 0.
        kind: The kind of question that was asked for, a name of ``datamodules.prompts.question_kinds``.
        completion: All that the model said.
        text: The question, or empty where none could be read.
        options: The answer and then the wrong options, as they were written.
        fault: Why no question could be read, in a few words that are counted; empty where one could.
        model: The model's name.
        endpoint: Name of the endpoint, never with credentials.
        prompt_version: Which prompt of ``datamodules.prompts.question_writer``.
        sampling: Sampling parameters (temperature, top_p, ...).
        seed: The request's seed.
        prompt_tokens: Tokens in the request.
        completion_tokens: Tokens generated.
        created: Seconds since the epoch.
        question_fingerprint: Fingerprint of what was asked about (``Question.fingerprint``).
    """

    schema: ClassVar[str] = "proposed_question/1"

    question_id: str
    sample: int
    kind: str
    completion: str
    text: str
    options: tuple[str, ...]
    fault: str
    model: str
    endpoint: str = ""
    prompt_version: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    created: float | None = None
    question_fingerprint: str = ""


@dataclass(frozen=True)
class QuestionOutcome(Record):
    """What became of a proposed question, and on what evidence.

    Attributes:
        question_id: The question in the corpus, for example ``avqa/train/kitchen_000030.0``.
        clip: The clip.
        sample: Which of the clip's questions.
        kind: The kind of question that was asked for.
        split: ``train`` or ``val`` where it is in the corpus, else empty.
        gate: The first gate that it did not pass, or empty.
        reason: Why not, in words; ``waiting`` where a stage has not come to it.
        writer: The model that wrote it.
        prompt_version: The prompt that it was written with.
        prior_right: How many answers without the clip were right, None before they were asked for.
        prior_asked: How many such answers there are.
        votes: How many of the teacher's answers were the written answer, None before they were asked for.
        voters: How many answers of the teacher there are.
        checker: What heard the clip.
        probability: Probability of the answer according to it.
        evidence: What its verdict rests on.
        source: Where the clip comes from.
        license: Under which terms.
    """

    schema: ClassVar[str] = "question_outcome/1"

    question_id: str
    clip: str
    sample: int
    kind: str
    split: str = ""
    gate: str = ""
    reason: str = ""
    writer: str = ""
    prompt_version: str = ""
    prior_right: int | None = None
    prior_asked: int = 0
    votes: int | None = None
    voters: int = 0
    checker: str = ""
    probability: float | None = None
    evidence: tuple[str, ...] = ()
    source: str = ""
    license: str = ""
