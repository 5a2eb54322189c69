"""A checker behind an endpoint as a judge of the student's traces: all requests of a batch are under way at once."""

import dataclasses
import logging
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from datamodules.batching.heard_traces import LabelledTraces
from datamodules.media.audio import WavFormat, wav_base64
from inference.chat_api.budget import Budget, BudgetSettings, BudgetSpent
from inference.chat_api.chat_endpoint import BodyField, ChatEndpoint, EndpointSettings, RequestFailed, RequestStats
from inference.chat_api.endpoint_client import open_client
from inference.chat_api.in_flight import BoundedPool
from lightning_modules.grounding_reward import Judge, Judgement
from lightning_modules.judgement_memory import JudgementMemory, KeptJudgement, clip_key, judgement_key
from lightning_modules.trace_checker import Checked, CheckMode, TraceChecker
from records.records import Question, Trace
from records.request_records import Usage
from runtime.errors import UserError

_log = logging.getLogger("lightning.pytorch.grounding")  # below Lightning's logger, so that it is seen


@dataclass
class Asked:
    """What has come of asking about one trace.

    Attributes:
        key: Under which it is remembered.
        question: The question.
        checked: What was said; None where nothing was.
        failure: Why not: kind and message.
        unpaid: True where the budget did not admit it.
        tally: What it took.
    """

    key: str
    question: Question
    checked: Checked | None = None
    failure: tuple[str, str] | None = None
    unpaid: bool = False
    tally: RequestStats = field(default_factory=RequestStats)


class EndpointJudge(Judge):
    """Asks a checker as AGFV does, about each trace or about each of its claims.

    What was judged once is remembered by clip and trace. A request that fails for good, or an answer that is neither
    yes nor no, is no judgement: it is counted (``train/grounding_failed``), named once by its kind, and asked again
    when the same trace comes again. An endpoint that answers nothing, and a budget that is spent, end the run.
    """

    def __init__(
        self,
        endpoint: EndpointSettings,
        mode: CheckMode = "trace",
        logprobs: bool = True,
        top_logprobs: int | None = 20,
        max_tokens: int = 4,
        max_claims: int = 16,
        max_list_tokens: int = 512,
        check_fields: dict[str, BodyField] | None = None,
        budget: BudgetSettings = BudgetSettings(),  # noqa: B008  (frozen)
        cache_dir: str | None = None,
        wav_format: WavFormat = "pcm16",
    ) -> None:
        """Prepare; nothing is sent before the first batch.

        Args:
            endpoint: The OpenAI-compatible server of the checker.
            mode: ``trace`` asks about each trace as a whole, ``claims`` about each of its claims.
            logprobs: Ask for log-probabilities of the first token; endpoints that give none are read by their answer.
            top_logprobs: How many candidates to ask for; null leaves the field out.
            max_tokens: Longest answer of a check.
            max_claims: Claims of a trace that are checked at most; the first ones.
            max_list_tokens: Longest list of claims.
            check_fields: Further fields of the requests that are answered with yes or no; see FactVerifierModule.
            budget: Prices and limits of the whole run, of all ranks together, and of earlier runs with the same
                ``cache_dir``.
            cache_dir: Folder that keeps judgements and what they took, so that a resumed run asks for none twice; null
                keeps them in memory.
            wav_format: How the samples are sent.
        """
        self.checker = TraceChecker(
            mode, logprobs, top_logprobs, max_tokens, max_claims, max_list_tokens, check_fields, "EndpointJudge: "
        )
        open_client(endpoint, endpoint.key())  # refuses what cannot work before anything is loaded
        self.endpoint_settings = endpoint
        self.budget_settings = budget
        self.wav_format: WavFormat = wav_format
        self._memory = JudgementMemory(cache_dir)
        self._run_id = uuid.uuid4().hex[:12]
        self._pool: BoundedPool[Asked] | None = None
        self._endpoint: ChatEndpoint | None = None
        self._failures: Counter[str] = Counter()

    def prepare(self, device: torch.device, rank: int, world_size: int) -> None:
        """Read what was judged before; this rank may spend its share of what is left of the budget."""
        budget = Budget(self.budget_settings, 1 / world_size, *self._memory.open(rank))
        self._endpoint = ChatEndpoint(self.endpoint_settings, budget)
        self._pool = BoundedPool(2 * self.endpoint_settings.in_flight)

    def close(self) -> None:
        """Give up what is under way and close connections and files."""
        if self._pool is not None:
            self._pool.close(self._endpoint.close if self._endpoint is not None else None)
        self._memory.close()
        self._pool = self._endpoint = None

    def judge(self, items: Sequence[LabelledTraces]) -> list[list[Judgement]]:
        """Judge traces; see :class:`.grounding_reward.Judge`.

        Raises:
            EndpointError: No request can succeed.
            UserError: The budget is spent.
        """
        pool = self._pool
        assert pool is not None, "prepare() comes first"
        places: dict[str, None] = {}
        keys: list[list[str]] = []
        for item in items:
            assert item.waveform is not None
            clip, wav = clip_key(item.waveform), ""
            keys.append([judgement_key(clip, item.question, trace, self._depends_on) for trace in item.traces])
            for key, trace in zip(keys[-1], item.traces, strict=True):
                if key in places or self._memory.get(key) is not None:
                    continue
                places[key] = None
                wav = wav or wav_base64(item.waveform, self.wav_format)
                pool.submit(self._ask(Asked(key, item.question), wav, trace))
        answers: list[Asked] = []
        try:
            for _ in pool.wait():
                answers += pool.finished()
        finally:
            answers += pool.finished()
            self._keep(answers)
        if any(one.unpaid for one in answers):
            raise UserError(
                "the budget of EndpointJudge is spent, and without judgements its reward would be none: raise "
                "budget.max_tokens or budget.max_cost and go on with --ckpt_path last, or leave the reward out"
            )
        total = sum(map(len, keys))
        self.metrics = {
            "failed": float(sum(one.failure is not None for one in answers)),
            "remembered": 1 - len(places) / total if total else 0.0,
        }
        return [[self._memory.get(key) for key in row] for row in keys]

    @property
    def _depends_on(self) -> tuple[str, ...]:
        return (self.endpoint_settings.base_url, self.endpoint_settings.model, self.checker.prompt_version)

    async def _ask(self, asked: Asked, wav: str, trace: Trace) -> Asked:
        assert self._endpoint is not None
        try:
            found = await self.checker.check(self._endpoint, asked.question, wav, trace, asked.tally)
        except BudgetSpent:
            asked.unpaid = True
        except RequestFailed as failed:
            asked.failure = failed.failure.kind, failed.failure.message
        else:
            unread = [said for p, said in zip(found.probabilities, found.evidence, strict=True) if p is None]
            if unread:
                asked.failure = "neither yes nor no", unread[0]
            else:
                asked.checked = found
        return asked

    def _keep(self, answers: Sequence[Asked]) -> None:
        """Remember what was said, and what it took; say what failed, each kind once."""
        judgements = [
            KeptJudgement(
                one.key, one.question.id, tuple(p for p in one.checked.probabilities if p is not None),
                one.checked.evidence,
            )
            for one in answers if one.checked is not None
        ]  # fmt: skip
        now = time.time()
        took = [one for one in answers if one.tally.requests or one.tally.retries]
        usage = [
            Usage(one.question.id, self._run_id, **dataclasses.asdict(one.tally), started=now, ended=now)
            for one in took
        ]
        self._memory.keep(judgements, usage)
        for one in answers:
            if one.failure is not None:
                kind, message = one.failure
                self._failures[kind] += 1
                if self._failures[kind] == 1:
                    _log.warning(
                        f"{self.endpoint_settings.label} did not judge a trace of question {one.question.id} ({kind}: "
                        f"{message}); more of this kind are counted in train/grounding_failed"
                    )
