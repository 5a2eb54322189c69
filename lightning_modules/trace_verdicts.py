"""From the probabilities of a trained verifier to the verdicts that are written."""

import uuid
from collections.abc import Sequence

from datamodules.traces import thought
from records.records import Trace, Verdict
from records.request_records import ItemResult, RequestError, Usage

NO_THOUGHT = "no thought"
"""Evidence against a trace that only answers: there is nothing to verify."""


class TraceVerdicts:
    """Verdicts that a writer has not taken yet.

    Attributes:
        checker: What the verifier is called in verdicts.
        threshold: Least probability that is accepted.
    """

    def __init__(self, checker: str, threshold: float) -> None:
        """Begin without verdicts.

        Args:
            checker: What the verifier is called in verdicts.
            threshold: Least probability that is accepted.
        """
        self.checker = checker
        self.threshold = threshold
        self._run_id = uuid.uuid4().hex[:12]
        self._outcomes: list[ItemResult] = []

    def cannot_hear(self, question_id: str, reason: str) -> None:
        """Note that a question's clip cannot be decoded.

        Args:
            question_id: The question.
            reason: Why not.
        """
        error = RequestError.now(question_id, "media", True, reason)
        self._outcomes.append(ItemResult((), (error,), self._usage(question_id)))

    def judge(self, traces: Sequence[Trace], probabilities: Sequence[float]) -> None:
        """Judge traces; one without a thought is rejected.

        Args:
            traces: The traces.
            probabilities: Of each, how probable it is that it fits its clip.
        """
        by_question: dict[str, list[Verdict]] = {}
        for trace, probability in zip(traces, probabilities, strict=True):
            thinks = bool(thought(trace))
            verdict = Verdict(
                question_id=trace.question_id,
                sample=trace.sample,
                accepted=thinks and probability >= self.threshold,
                checker=self.checker,
                probability=round(probability, 6) if thinks else None,
                evidence=(f"alignment {probability:.3f}" if thinks else NO_THOUGHT,),
                threshold=self.threshold,
            )
            by_question.setdefault(trace.question_id, []).append(verdict)
        for question_id, verdicts in by_question.items():
            self._outcomes.append(ItemResult(tuple(verdicts), (), self._usage(question_id)))

    def take(self) -> list[ItemResult]:
        """Return what has come since the last call."""
        done, self._outcomes = self._outcomes, []
        return done

    def _usage(self, question_id: str) -> Usage:
        return Usage(question_id, self._run_id)
