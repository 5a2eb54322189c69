"""AGFV (paper, section 3.2): an audio model hears the true clip and says whether a trace fits it."""

import math
import re
from typing import Any, Literal

from datamodules.batching.items import TracedClip
from datamodules.media.audio import audio_part
from datamodules.prompts.checker import CHECK_ANSWER, CHECK_CLAIM, CHECK_TRACE, LIST_CLAIMS
from datamodules.reading.self_consistency import answered_option
from datamodules.traces import thought
from inference.chat_api.budget import BudgetSettings
from inference.chat_api.chat_endpoint import BodyField, Choice, EndpointSettings, RequestStats
from lightning_modules.chat_stage import ChatStage, Work, spoken
from lightning_modules.trace_verdicts import NO_THOUGHT
from records.records import Question, Trace, Verdict
from records.request_records import RequestError
from runtime.errors import UserError, refuse_below

_WORDS = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_NEGATION = re.compile(
    r"\b(?:not|cannot|never|neither|nor|hardly|unable|refuse|decline|hesitate|instead\s+of|rather\s+than|without)\b"
    r"|n['’]t\b|不|没|未|非"
    r"|\b(?:yes|no)\W+(?:\w+\W+){0,2}?(?:wrong|false|incorrect|untrue|mistaken|misleading)\b",
    re.IGNORECASE,
)
_LEADS = re.compile(r"\W*(?:yes|no)\W*(?:[,，—–]|\s-|$)", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?;:。！？；：\n]+")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s*")


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
        mode: Literal["trace", "claims", "answer"] = "trace",
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
        refuse_below(1, "model.", max_tokens=max_tokens, max_claims=max_claims, max_list_tokens=max_list_tokens)
        super().__init__(endpoint, budget, requests_per_item=1)
        self.mode = mode
        self.threshold = threshold
        self.max_claims = max_claims
        self.max_list_tokens = max_list_tokens
        self.check_fields = check_fields
        self.fields = {
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "logprobs": True if logprobs else None,
            "top_logprobs": top_logprobs if logprobs else None,
        }
        prompts = {"trace": (CHECK_TRACE,), "claims": (LIST_CLAIMS, CHECK_CLAIM), "answer": (CHECK_ANSWER,)}[mode]
        self.prompt = prompts[-1]
        self.prompt_version = "+".join(prompt.identifier for prompt in prompts)
        self.provenance = {
            "checker": endpoint.model,
            "mode": mode,
            "prompt_version": self.prompt_version,
            "threshold": threshold,
        }

    def question_id(self, item: TracedClip) -> str:
        """Return which question an item is about."""
        return item.question.id

    async def ask(self, item: TracedClip, work: Work) -> None:
        """Check those of the item's traces that have no verdict yet; where nothing was thought nothing is asked."""
        question = item.question
        left = [trace for trace in item.traces if (question.id, trace.sample) not in self.completed]
        if self.mode == "answer":
            await self._ask_answers(item, left, work)
            return
        work.records += [self._verdict(trace, False, None, (NO_THOUGHT,)) for trace in left if not thought(trace)]
        if item.error is not None:
            work.errors.append(RequestError.now(question.id, "media", item.lasting, item.error))
            return
        check = self._check_trace if self.mode == "trace" else self._check_claims

        async def one(trace: Trace) -> None:
            asking = check(item, trace, work.tally)
            if (verdict := await self._settle(question.id, [trace.sample], asking, work)) is not None:
                work.records.append(verdict)

        await self._all([one(trace) for trace in left if thought(trace)])

    async def _check_trace(self, item: TracedClip, trace: Trace, tally: RequestStats) -> Verdict:
        text = CHECK_TRACE.render(item.question, reasoning=trace.reasoning, answer=trace.answer or "")
        reply = await self.endpoint.chat(listen(item.wav, text), tally, self.check_fields, **self.fields)
        probability, said = yes_probability(checked(reply.choices[0]))
        return self._verdict(trace, probability is not None and probability >= self.threshold, probability, (said,))

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
            asking = self._check_answer(item, answer, work.tally)
            found = await self._settle(question.id, [trace.sample for trace in same], asking, work)
            if found is not None:
                probability, evidence = found
                accepted = probability >= self.threshold
                work.records += [self._verdict(trace, accepted, probability, evidence) for trace in same]

        await self._all([one(answer) for answer in question.options if answer in answers.values()])

    async def _check_answer(self, item: TracedClip, answer: str, tally: RequestStats) -> tuple[float, tuple[str, ...]]:
        """Return how probable it is that an answer is right and no other option is, and what was said of each."""
        options = [answer, *(option for option in item.question.options if option != answer)]
        chats = [listen(item.wav, CHECK_ANSWER.render(item.question, answer=option)) for option in options]
        works = [self.endpoint.chat(chat, tally, self.check_fields, **self.fields) for chat in chats]
        said = [yes_probability(checked(reply.choices[0])) for reply in await self._all(works)]
        right, *others = [0.0 if probability is None else probability for probability, _ in said]
        evidence = tuple(f"{word}: {option}" for (_, word), option in zip(said, options, strict=True))
        return min(right, 1 - max(others, default=0.0)), evidence

    async def _check_claims(self, item: TracedClip, trace: Trace, tally: RequestStats) -> Verdict:
        claims = await self._claims(item.question, trace, tally)
        chats = [listen(item.wav, CHECK_CLAIM.render(item.question, claim=claim)) for claim in claims]
        works = [self.endpoint.chat(chat, tally, self.check_fields, **self.fields) for chat in chats]
        evidence, probabilities = [], []
        for claim, reply in zip(claims, await self._all(works), strict=True):
            probability, said = yes_probability(checked(reply.choices[0]))
            evidence.append(f"{said}: {claim}")
            probabilities.append(0.0 if probability is None else probability)
        lowest = min(probabilities, default=1.0)
        return self._verdict(trace, lowest >= self.threshold, lowest, tuple(evidence) or ("no claims about sounds",))

    async def _claims(self, question: Question, trace: Trace, tally: RequestStats) -> list[str]:
        text = LIST_CLAIMS.render(question, reasoning=trace.reasoning)
        chat = [{"role": "user", "content": text}]
        reply = await self.endpoint.chat(chat, tally, max_tokens=self.max_list_tokens, temperature=0.0)
        return read_claims(spoken(reply.choices[0]).text)[: self.max_claims]

    def _verdict(self, trace: Trace, accepted: bool, probability: float | None, evidence: tuple[str, ...]) -> Verdict:
        return Verdict(
            question_id=trace.question_id,
            sample=trace.sample,
            accepted=accepted,
            checker=self.endpoint_settings.model,
            probability=None if probability is None else round(probability, 6),
            mode=self.mode,
            evidence=evidence,
            prompt_version=self.prompt_version,
            threshold=self.threshold,
        )


def listen(wav: str, text: str) -> list[dict[str, Any]]:
    """Return the chat that plays a WAV file (base64) and then asks something."""
    return [{"role": "user", "content": [audio_part(wav), {"type": "text", "text": text}]}]


def checked(choice: Choice) -> Choice:
    """Return a checker's completion that can be read: by what was said, or by its first token alone.

    Raises:
        RequestFailed: It was filtered, refused or left empty: no verdict, neither acceptance nor rejection.
    """
    return choice if choice.first_token and choice.finish_reason != "content_filter" else spoken(choice)


def yes_probability(choice: Choice) -> tuple[float | None, str]:
    """Return the probability of "yes" against "no", and the evidence in words.

    It comes from the first token's log-probabilities where both words are among its candidates, or one of them is and
    leaves less than half to all else, so that the other is less likely; else from the answer: 1 for yes, 0 for no, None
    where it says neither or both, or one of them in a sentence with a negation ("I would not say yes").

    Args:
        choice: The checker's completion.
    """
    mass = {"yes": 0.0, "no": 0.0}
    for token, logprob in choice.first_token:
        word = token.strip(" \t\n.,!▁Ġ\"'").casefold()
        if word in mass:
            mass[word] += math.exp(logprob)
    total = mass["yes"] + mass["no"]
    if min(mass.values()) > 0 or total > 0.5:
        probability = mass["yes"] / total
        return probability, f"yes {probability:.3f}"
    if (plain := _plain_word(choice.text)) is not None:
        return (1.0, "yes") if plain == "yes" else (0.0, "no")
    return None, f"neither yes nor no: {choice.text[:80]!r}"


def _plain_word(text: str) -> str | None:
    """Return the one of "yes" and "no" that a text says, or None where it says neither, both or what it negates.

    A word that begins its sentence and is set off, as in "No, it does not", is the answer whatever follows it.
    """
    words = {word.casefold() for word in _WORDS.findall(text)}
    if len(words) != 1:
        return None
    for sentence in _SENTENCE.split(text):
        if _WORDS.search(sentence) and _NEGATION.search(sentence) and not _LEADS.match(sentence):
            return None
    return words.pop()


def read_claims(text: str) -> list[str]:
    """Return the claims of a list, one a line; empty for "none".

    Args:
        text: What the endpoint wrote.
    """
    claims = []
    for line in text.splitlines():
        claim = _BULLET.sub("", line).strip()
        if claim and not claim.endswith(":") and claim.casefold().strip(".") not in ("none", "no claims"):
            claims.append(claim)
    return list(dict.fromkeys(claims))
