"""AGFV (paper, section 3.2): an audio model hears the true clip and says whether a trace fits it."""

from typing import Literal

from datamodules.batching.items import TracedClip
from datamodules.reading.self_consistency import answered_option
from datamodules.traces import thought
from inference.chat_api.budget import BudgetSettings
from inference.chat_api.chat_endpoint import BodyField, EndpointSettings
from lightning_modules.chat_stage import ChatStage, Work, side_by_side
from lightning_modules.trace_checker import CheckMode, TraceChecker
from lightning_modules.trace_verdicts import NO_THOUGHT
from records.records import Trace, Verdict
from records.request_records import RequestError
from runtime.errors import UserError

NO_ANSWER = "no readable answer"
"""Evidence against a trace of which only the answer is judged, and whose answer is none of the options."""


class FactVerifierModule(ChatStage):
    """The checker C: accepts a trace when an audio model that hears the clip says that it fits.

    In mode ``trace`` (the paper's) it is asked once about the whole trace. In mode ``claims`` a text request lists what
    the trace claims about sounds, each claim is asked about, and the trace is accepted when none is refuted. A trace
    without a thought has nothing that could fit: it is rejected without a request.

    In mode ``answer`` it is asked about question and answer alone, whatever was thought: once for each answer that a
    question's traces give, and once for each of the other options, of which none may be right as well. That is how
    questions are checked that a model wrote without hearing anything.
    """

    record_type = Verdict

    def __init__(
        self,
        endpoint: EndpointSettings,
        mode: CheckMode | Literal["answer"] = "trace",
        threshold: float = 0.5,
        logprobs: bool = True,
        top_logprobs: int | None = 20,
        max_tokens: int = 4,
        max_claims: int = 16,
        max_list_tokens: int = 512,
        check_fields: dict[str, BodyField] | None = None,
        budget: BudgetSettings = BudgetSettings(),  # noqa: B008  (frozen)
    ) -> None:
        """Prepare; nothing is sent before the first batch.

        Args:
            endpoint: The OpenAI-compatible server of the checker.
            mode: ``trace`` asks about each trace as a whole, ``claims`` about each of its claims, ``answer`` about each
                option of the question, of which the trace's answer alone must be right.
            threshold: Least probability of "yes" that is accepted; a plain yes counts as 1, a plain no as 0.
            logprobs: Ask for log-probabilities of the first token; endpoints that give none are read by their answer.
            top_logprobs: How many candidates to ask for; null leaves the field out.
            max_tokens: Longest answer of a check.
            max_claims: Claims of a trace that are checked at most; the first ones.
            max_list_tokens: Longest list of claims.
            check_fields: Further fields of the requests that are answered with yes or no, but not of those that list
                claims. For vLLM, ``{structured_outputs: {choice: ["yes", "no"]}}`` admits no other answer, and
                ``{logprob_token_ids: [YES, NO]}`` with the two tokens' numbers scores exactly these.
            budget: Prices and limits.
        """
        if not 0 <= threshold <= 1:
            raise UserError(f"model.threshold must be between 0 and 1, found {threshold}")
        checker = TraceChecker(mode, logprobs, top_logprobs, max_tokens, max_claims, max_list_tokens, check_fields)
        super().__init__(endpoint, budget, requests_per_item=1)
        self.checker = checker
        self.threshold = threshold
        self.provenance = {
            "checker": endpoint.model,
            "mode": mode,
            "prompt_version": self.checker.prompt_version,
            "threshold": threshold,
        }

    def question_id(self, item: TracedClip) -> str:
        """Return which question an item is about."""
        return item.question.id

    async def ask(self, item: TracedClip, work: Work) -> None:
        """Check those of the item's traces that have no verdict yet; where nothing was thought nothing is asked."""
        question = item.question
        left = [trace for trace in item.traces if (question.id, trace.sample) not in self.completed]
        if self.checker.mode == "answer":
            await self._ask_answers(item, left, work)
            return
        work.records += [self._verdict(trace, False, None, (NO_THOUGHT,)) for trace in left if not thought(trace)]
        if item.error is not None:
            work.errors.append(RequestError.now(question.id, "media", item.lasting, item.error))
            return

        async def one(trace: Trace) -> None:
            asking = self._check(item, trace, work)
            if (verdict := await self._settle(question.id, [trace.sample], asking, work)) is not None:
                work.records.append(verdict)

        await side_by_side([one(trace) for trace in left if thought(trace)])

    async def _check(self, item: TracedClip, trace: Trace, work: Work) -> Verdict:
        found = await self.checker.check(self.endpoint, item.question, item.wav, trace, work.tally)
        if self.checker.mode == "trace":
            (probability,) = found.probabilities
        else:
            probability = min((p or 0.0 for p in found.probabilities), default=1.0)
        accepted = probability is not None and probability >= self.threshold
        return self._verdict(trace, accepted, probability, found.evidence or ("no claims about sounds",))

    async def _ask_answers(self, item: TracedClip, left: list[Trace], work: Work) -> None:
        """Judge the answers of traces, those of the same answer together."""
        question = item.question
        if item.error is not None:
            work.errors.append(RequestError.now(question.id, "media", item.lasting, item.error))
            return
        answers = {trace.sample: answered_option(trace, question) for trace in left}
        work.records += [self._verdict(t, False, None, (NO_ANSWER,)) for t in left if answers[t.sample] is None]

        async def one(answer: str) -> None:
            same = [trace for trace in left if answers[trace.sample] == answer]
            asking = self.checker.check_answer(self.endpoint, question, item.wav, answer, work.tally)
            found = await self._settle(question.id, [trace.sample for trace in same], asking, work)
            if found is not None:
                right, *others = [probability or 0.0 for probability in found.probabilities]
                alone = min(right, 1 - max(others, default=0.0))
                accepted = alone >= self.threshold
                work.records += [self._verdict(trace, accepted, alone, found.evidence) for trace in same]

        await side_by_side([one(answer) for answer in question.options if answer in answers.values()])

    def _verdict(self, trace: Trace, accepted: bool, probability: float | None, evidence: tuple[str, ...]) -> Verdict:
        return Verdict(
            question_id=trace.question_id,
            sample=trace.sample,
            accepted=accepted,
            checker=self.endpoint_settings.model,
            probability=None if probability is None else round(probability, 6),
            mode=self.checker.mode,
            evidence=evidence,
            prompt_version=self.checker.prompt_version,
            threshold=self.threshold,
        )
