"""Servers of a teacher that scores rollouts: how they are let in, and how it is asked."""

import dataclasses
import logging
import math
from typing import Any

from lightning import Trainer

from callbacks.rollout.teacher_gate import check_teacher
from callbacks.rollout.teacher_prompts import TeacherPrompts, prompts_of
from datamodules.batching.batch import AudioQABatch
from inference.rollout_requests import Prompt
from inference.teacher_pool import SeenPrompt, TeacherPool
from inference.teacher_tokens import AnswerTokens, TeacherTokens, Translation, refuse_strangers
from inference.token_spans import spread
from inference.vllm.client import RequestOutput, ServerUnreachable
from inference.vllm.sampling import CompletionOutput
from lightning_modules.distillation import OnPolicyDistillation
from lightning_modules.doors import RolloutModule
from runtime.errors import UserError

log = logging.getLogger("lightning.pytorch.rollout")  # below Lightning's logger, so that it is seen


class TeacherServers:
    """A pool of servers with the teacher, and how it is asked.

    Attributes:
        pool: The servers.
    """

    def __init__(self, pool: TeacherPool, chosen: OnPolicyDistillation, gated: bool) -> None:
        """Describe them; nothing is contacted.

        Args:
            pool: The servers.
            chosen: The settings.
            gated: Whether each must pass the gate.
        """
        self.pool = pool
        self._chosen = chosen
        self._gated = gated
        self._prompts: TeacherPrompts | None = None
        self._tokens: TeacherTokens | None = None
        self._answer: AnswerTokens | None = None

    def wait(self) -> None:
        """Wait until all servers are ready, and look at how they were started."""
        pictures = self._chosen.frames.count or self._chosen.frames.max_frames
        self.pool.wait(1, f"TEACHER --limit-mm-per-prompt '{{\"image\": {pictures}}}'")

    def meet(self, trainer: Trainer, module: RolloutModule) -> None:
        """Compare the vocabularies, and find the questions' clips.

        Args:
            trainer: The trainer with the DataModule.
            module: The module with the student.

        Raises:
            UserError: The teacher cannot read what the student writes, or the data lack what it needs.
        """
        student = module.student.processor.tokenizer
        for server in self.pool.servers:
            name = self._chosen.tokenizer or (server.info.model if server.info is not None else "")
            teacher = _read_tokenizer(name, server.url)
            tokens = TeacherTokens(student, teacher)
            refuse_strangers(tokens, student, server.url)
            if self._tokens is None:
                ways = "as token ids, which they share" if tokens.agree else "aligned by bytes with its own tokens"
                log.info(f"The teacher {name} reads the student's completions {ways}")
                self._tokens, self._prompts = tokens, prompts_of(trainer, self._chosen, teacher)
        self._answer = AnswerTokens(student) if self._chosen.spare_answer else None

    def pass_gate(self, batch: AudioQABatch, student: Any) -> None:
        """Let the servers that are due pass the gate.

        Args:
            batch: Questions with clips.
            student: The student's tokenizer.

        Raises:
            UserError: One is not shown what it is sent, or does not see.
        """
        assert self._prompts is not None and self._tokens is not None, "they meet before training"
        for server in self.pool.servers:
            if not self._gated or not server.gate_due or server.suspect:
                continue
            text = f"The answer is {batch.questions[0].options[0]}."
            ids = self._tokens.translate(student(text, add_special_tokens=False)["input_ids"]).ids
            try:
                change = check_teacher(server.client, self._prompts, batch.questions[0], ids)
            except ServerUnreachable as error:
                log.warning(f"{error}: the teacher's gate is repeated when it is back")
                server.suspect = True
                continue
            server.gate_due = False
            log.info(f"Parity with the teacher {server.url}: other frames change its scores by up to {change:.2g} nats")

    def score(self, prompt: Prompt, drawn: RequestOutput) -> RequestOutput:
        """Let completions be scored that a rollout server has drawn.

        Args:
            prompt: What was asked.
            drawn: What was answered.

        Returns:
            The same with the teacher's log-probabilities; all NaN where it does not speak on the question.

        Raises:
            ServersLost: No server could score them for as long as is waited.
            UserError: One refused, the clip has no frames, or the question is not known.
        """
        assert self._prompts is not None and self._tokens is not None and prompt.question is not None
        question = prompt.question
        blind = self._chosen.against == "blind_teacher"
        if not self._prompts.asks(question):
            silence = [[math.nan] * len(sample.token_ids) for sample in drawn.samples]
            return _scored(drawn, silence, silence if blind else None)
        read = [self._tokens.translate(sample.token_ids) for sample in drawn.samples]
        shown = self._prompts.prompt(question, self._prompts.pictures(self._prompts.frames(question).pixels))
        seeing = self._ask(shown, drawn, read)
        unseeing = self._ask(self._prompts.prompt(question, ()), drawn, read) if blind else None
        return _scored(drawn, seeing, unseeing)

    def _ask(self, prompt: SeenPrompt, drawn: RequestOutput, read: list[Translation]) -> list[list[float]]:
        """Return what the teacher thinks of each of the student's tokens."""
        scores = self.pool.score(prompt, [translation.ids for translation in read])
        return [
            self._without_answer(sample, spread(translation.spans, sample.logprobs, found))
            for sample, translation, found in zip(drawn.samples, read, scores, strict=True)
        ]

    def _without_answer(self, sample: CompletionOutput, found: list[float]) -> list[float]:
        spared = set(self._answer.places(sample.token_ids)) if self._answer is not None else set()
        return [math.nan if at in spared else score for at, score in enumerate(found)]


def _scored(drawn: RequestOutput, seeing: list[list[float]], blind: list[list[float]] | None) -> RequestOutput:
    others: list[list[float] | None] = [None] * len(seeing) if blind is None else list(blind)
    samples = [
        dataclasses.replace(sample, teacher_logprobs=scores, blind_logprobs=other)
        for sample, scores, other in zip(drawn.samples, seeing, others, strict=True)
    ]
    return dataclasses.replace(drawn, samples=samples)


def _read_tokenizer(name: str, url: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # a damaged file may raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"the tokenizer of the teacher at {url} cannot be loaded from {name!r} ({reason}): set "
            "model.distillation.tokenizer to a Hub name or a folder on this machine"
        ) from None
