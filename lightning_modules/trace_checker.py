"""How a checker that hears the clip is asked: about a trace, its claims or its answer (AGFV; paper, section 3.2)."""

import math
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from datamodules.media.audio import audio_part
from datamodules.prompts.checker import CHECK_ANSWER, CHECK_CLAIM, CHECK_TRACE, LIST_CLAIMS
from inference.chat_api.chat_endpoint import BodyField, ChatEndpoint, Choice, RequestStats
from lightning_modules.chat_stage import side_by_side, spoken
from records.records import Question, Trace
from runtime.errors import refuse_below

CheckMode = Literal["trace", "claims"]
"""What of a trace is checked."""

_PROMPTS = {"trace": (CHECK_TRACE,), "claims": (LIST_CLAIMS, CHECK_CLAIM), "answer": (CHECK_ANSWER,)}

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


class Checked(NamedTuple):
    """What a checker said of a trace.

    Attributes:
        probabilities: Of "yes", for the trace as a whole, for each of its claims, or for each option, that of the trace
            first; None where it said neither.
        evidence: In words.
    """

    probabilities: tuple[float | None, ...]
    evidence: tuple[str, ...]


class TraceChecker:
    """Asks about traces.

    In mode ``trace`` (the paper's) the checker is asked once about the whole trace. In mode ``claims`` a text request
    lists what the trace claims about sounds, and each claim is asked about. In mode ``answer`` each option of the
    question is asked about, whatever was thought.

    Attributes:
        mode: Which of them.
        prompt_version: Which prompts are used.
    """

    def __init__(
        self,
        mode: CheckMode | Literal["answer"],
        logprobs: bool,
        top_logprobs: int | None,
        max_tokens: int,
        max_claims: int,
        max_list_tokens: int,
        check_fields: dict[str, BodyField] | None,
        prefix: str = "model.",
    ) -> None:
        """Prepare.

        Args:
            mode: ``trace``, ``claims`` or ``answer``.
            logprobs: Ask for log-probabilities of the first token.
            top_logprobs: How many candidates to ask for; None leaves the field out.
            max_tokens: Longest answer of a check.
            max_claims: Claims of a trace that are checked at most; the first ones.
            max_list_tokens: Longest list of claims.
            check_fields: Further fields of the requests that are answered with yes or no.
            prefix: What these settings are below, for messages.

        Raises:
            UserError: A number is below 1.
        """
        refuse_below(1, prefix, max_tokens=max_tokens, max_claims=max_claims, max_list_tokens=max_list_tokens)
        self.mode: CheckMode | Literal["answer"] = mode
        self.prompt_version = "+".join(prompt.identifier for prompt in _PROMPTS[mode])
        self._max_claims = max_claims
        self._max_list_tokens = max_list_tokens
        self._check_fields = check_fields
        self._fields = {
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "logprobs": True if logprobs else None,
            "top_logprobs": top_logprobs if logprobs else None,
        }

    async def check(
        self, endpoint: ChatEndpoint, question: Question, wav: str, trace: Trace, tally: RequestStats
    ) -> Checked:
        """Ask about a trace, as a whole or by its claims.

        Args:
            endpoint: The checker.
            question: The question.
            wav: The sound of its clip as a WAV file in base64.
            trace: The trace, which thinks.
            tally: Gets what it took.

        Raises:
            RequestFailed: Something was refused, failed too often, or was left empty.
            BudgetSpent: It does not fit the budget any more.
            EndpointError: No request to this endpoint can succeed.
        """
        if self.mode == "trace":
            text = CHECK_TRACE.render(question, reasoning=trace.reasoning, answer=trace.answer or "")
            probability, said = await self._asked(endpoint, wav, text, tally)
            return Checked((probability,), (said,))
        claims = await self._claims(endpoint, question, trace, tally)
        asked = [self._asked(endpoint, wav, CHECK_CLAIM.render(question, claim=claim), tally) for claim in claims]
        answers = await side_by_side(asked)
        evidence = tuple(f"{said}: {claim}" for claim, (_, said) in zip(claims, answers, strict=True))
        return Checked(tuple(probability for probability, _ in answers), evidence)

    async def check_answer(
        self, endpoint: ChatEndpoint, question: Question, wav: str, answer: str, tally: RequestStats
    ) -> Checked:
        """Ask about each option of a question, the given answer first; see :meth:`check`."""
        options = [answer, *(option for option in question.options if option != answer)]
        texts = [CHECK_ANSWER.render(question, answer=option) for option in options]
        answers = await side_by_side([self._asked(endpoint, wav, text, tally) for text in texts])
        evidence = tuple(f"{said}: {option}" for option, (_, said) in zip(options, answers, strict=True))
        return Checked(tuple(probability for probability, _ in answers), evidence)

    async def _asked(
        self, endpoint: ChatEndpoint, wav: str, text: str, tally: RequestStats
    ) -> tuple[float | None, str]:
        reply = await endpoint.chat(listen(wav, text), tally, self._check_fields, **self._fields)
        return yes_probability(checked(reply.choices[0]))

    async def _claims(
        self, endpoint: ChatEndpoint, question: Question, trace: Trace, tally: RequestStats
    ) -> Sequence[str]:
        chat = [{"role": "user", "content": LIST_CLAIMS.render(question, reasoning=trace.reasoning)}]
        reply = await endpoint.chat(chat, tally, max_tokens=self._max_list_tokens, temperature=0.0)
        return read_claims(spoken(reply.choices[0]).text)[: self._max_claims]


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
