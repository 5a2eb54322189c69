"""The rollout servers of a run: what they are given, how they are checked, and what they draw."""

from collections.abc import Callable
from typing import Any

from lightning import Trainer

from callbacks.rollout.parity import check_prompt
from callbacks.rollout.parity_gate import ParityGate
from callbacks.rollout.prompt_lengths import check_batch, check_questions
from callbacks.rollout.reference_servers import ReferenceServers
from callbacks.rollout.teacher_servers import TeacherServers
from callbacks.rollout.weight_pusher import WeightPusher
from datamodules.audio_qa import AudioQADataModule, Role
from datamodules.batching.batch import AudioQABatch
from inference.reference_pool import ReferencePool
from inference.rollout_requests import Prompt
from inference.server_pool import ServerPool
from inference.teacher_pool import TeacherPool
from inference.vllm.client import RequestOutput, audio_url
from inference.vllm.pooled_server import ServersLost, WeightsAwaited
from inference.vllm.sampling import CompletionOutput, SamplingParams
from lightning_modules.doors import RolloutModule
from runtime.errors import UserError


class RolloutServers:
    """A pool of servers, who gives it weights, and its parity gate; open for one stage at a time.

    Attributes:
        reference: Servers that score what these draw, where the module wants a reference on servers.
        teacher: Servers whose teacher scores what these draw, where the module wants one.
    """

    def __init__(
        self,
        make_pool: Callable[[], ServerPool],
        make_pusher: Callable[[ServerPool], WeightPusher],
        make_gate: Callable[[ServerPool], ParityGate] | None,
        make_reference: Callable[[list[str]], ReferencePool],
        make_teacher: Callable[[list[str]], TeacherPool],
    ) -> None:
        """Describe the parts, each stage gets new ones; nothing is contacted.

        Args:
            make_pool: Describes the servers; called once at once, so that malformed addresses are refused now.
            make_pusher: Makes what gives them weights.
            make_gate: Makes what lets those pass that compute what the trainer computes; None lets all pass.
            make_reference: Describes servers that hold the reference, given their addresses.
            make_teacher: Describes servers that hold a teacher, given their addresses.
        """
        self._make_pool = make_pool
        self._make_pusher = make_pusher
        self._make_gate = make_gate
        self._make_reference = make_reference
        self._make_teacher = make_teacher
        make_pool()
        self._pool: ServerPool | None = None
        self._pusher: WeightPusher | None = None
        self._gate: ParityGate | None = None
        self.reference: ReferenceServers | None = None
        self.teacher: TeacherServers | None = None

    @property
    def pool(self) -> ServerPool:
        """The servers of the stage."""
        assert self._pool is not None, "they are opened when a stage begins"
        return self._pool

    @property
    def version(self) -> str | None:
        """Name of the weights that the servers have; None before the first push."""
        return self._pusher.version if self._pusher is not None else None

    def open(self, module: RolloutModule, stage: str) -> None:
        """Begin a stage: wait until all servers are ready, and check how they were started.

        Args:
            module: What they will sample for.
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            UserError: One did not become ready in time, or was started in a way that rollouts cannot use.
        """
        self.close()
        self._pool = self._make_pool()
        self._pusher = self._make_pusher(self._pool)
        self._gate = self._make_gate(self._pool) if self._make_gate is not None else None
        wanted = module.training_rollouts if stage == "fit" else None
        checkpoint = module.student.weights or "DIR"
        self.pool.wait(1 if wanted is None else wanted.num_completions, checkpoint)
        if wanted is not None and wanted.reference_urls:
            self.reference = ReferenceServers(self._make_reference(list(wanted.reference_urls)), self._make_gate)
            self._refuse_both(self.reference.pool, "the reference keeps those of the SFT policy")
            self.reference.pool.wait(1, checkpoint)
        if wanted is not None and wanted.distillation is not None:
            chosen = wanted.distillation
            pool = self._make_teacher(list(chosen.urls))
            self.teacher = TeacherServers(pool, chosen, self._make_gate is not None)
            self._refuse_both(pool, "the teacher keeps its own")
            self.teacher.wait()

    def _refuse_both(self, scorers: ServerPool, why: str) -> None:
        if both := {server.url for server in self.pool.servers} & {server.url for server in scorers.servers}:
            raise UserError(
                f"{both.pop()} is in server_urls and in {scorers.setting}: rollout servers get each step's weights, "
                f"{why}; start another server for it"
            )

    def check_questions(self, trainer: Trainer, role: Role, new_tokens: int) -> None:
        """Refuse questions that no server has room for.

        Args:
            trainer: The trainer with the DataModule.
            role: What the questions are for.
            new_tokens: Longest completion.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, AudioQADataModule):
            check_questions(data, role, new_tokens, self.pool.servers)
            if self.reference is not None and role == "train":  # vLLM wants room for one token more than it scores
                check_questions(data, role, new_tokens + 1, self.reference.pool.servers)

    def have_weights_of(self, step: int) -> bool:
        """Return True when the servers were given the weights of an optimizer step."""
        return self.version is not None and self.version.rpartition(":")[2] == str(step)

    def push(self, trainer: Trainer, module: RolloutModule, run_id: str | None) -> str:
        """Give all servers the student's present weights; all ranks together.

        Args:
            trainer: The trainer.
            module: The module with the student.
            run_id: Name of the run; drawn when there is none yet.

        Returns:
            Name of the run.
        """
        assert self._pusher is not None, "they are opened when a stage begins"
        return self._pusher.push(trainer, module.student, run_id)

    def pass_together(
        self, trainer: Trainer, module: RolloutModule, batch: AudioQABatch, sampling: SamplingParams
    ) -> None:
        """Pass the servers through the gate where all ranks must compute for it together."""
        if self._gate is not None and module.student.sharded:
            self._gate.pass_together(trainer, module, batch, sampling)

    def pass_alone(
        self, trainer: Trainer, module: RolloutModule, batch: AudioQABatch, sampling: SamplingParams
    ) -> None:
        """Pass the servers through the gate where this rank can do so alone."""
        if self._gate is not None and not module.student.sharded:
            self._gate.pass_alone(trainer, module, batch, sampling)

    def pass_reference_together(
        self, trainer: Trainer, module: RolloutModule, batch: AudioQABatch, sampling: SamplingParams
    ) -> None:
        """Let the servers with the reference pass their gate where all ranks must compute for it together."""
        if self.reference is not None:
            self.reference.pass_together(trainer, module, batch, sampling)

    def pass_reference_alone(
        self, trainer: Trainer, module: RolloutModule, batch: AudioQABatch, sampling: SamplingParams
    ) -> None:
        """Let the servers with the reference pass their gate where this rank can do so alone."""
        if self.reference is not None:
            self.reference.pass_alone(trainer, module, batch, sampling)

    def meet_teacher(self, trainer: Trainer, module: RolloutModule) -> None:
        """Compare the teacher's vocabulary with the student's, and find the clips that it is shown."""
        if self.teacher is not None:
            self.teacher.meet(trainer, module)

    def pass_teacher(self, module: RolloutModule, batch: AudioQABatch) -> None:
        """Let the servers with the teacher pass their gate, for which nothing is computed here."""
        if self.teacher is not None:
            self.teacher.pass_gate(batch, module.student.processor.tokenizer)

    def check_batch(self, batch: AudioQABatch, sampling: list[SamplingParams]) -> None:
        """Refuse a batch that does not fit into every server."""
        check_batch(batch, sampling[0].max_tokens, self.pool.servers)

    def all_have_drawn(self, trainer: Trainer, drawn: bool) -> bool:
        """Agree with the other ranks whether weights must be pushed before rollouts go on.

        Where one rank alone can bring a server back there is nothing to agree upon. In an evaluation ranks may have
        different numbers of batches, so that they cannot push together then.

        Args:
            trainer: The trainer.
            drawn: Whether this rank has its completions.

        Raises:
            ServersLost: They must be pushed, and this is an evaluation on several ranks.
        """
        if self._pusher is None or not self._pusher.together or trainer.world_size == 1:
            return drawn
        if trainer.training:
            return trainer.strategy.reduce_boolean_decision(drawn)
        if not drawn:
            raise ServersLost(
                "all rollout servers were started anew in an evaluation on several ranks, within which weights cannot "
                "be sent to them: run it again, with --ckpt_path last in training"
            )
        return True

    def draw(
        self, batch: AudioQABatch, sampling: list[SamplingParams], scored: bool = False
    ) -> tuple[list[list[CompletionOutput]], str] | None:
        """Draw the completions of a batch, all requests at once.

        Args:
            batch: B questions.
            sampling: How each one's completions are drawn.
            scored: Have each question's completions scored by the reference and the teacher as soon as they have come,
                where they are on servers.

        Returns:
            ``[B][G]`` completions, and the weights that drew them; None where no server has the weights any more and
            all ranks must push them together.

        Raises:
            UserError: A server sees another prompt than the trainer, or refused a request, or all were lost.
        """
        version = self.version
        assert version is not None, "weights are pushed before the first batch"
        prompts = [
            Prompt(f"{question.id} ({question.media})", ids, audio_url(waveform), how, question=question)
            for question, ids, waveform, how in zip(
                batch.questions, batch.request_ids, batch.waveforms, sampling, strict=True
            )
        ]
        try:
            answers = self.pool.generate(prompts, self._score if scored else None)
        except WeightsAwaited:
            return None
        lengths = batch.prompt_lengths.tolist()
        for row, ids in enumerate(batch.prompt_ids.tolist()):  # one transfer, while the servers have worked
            expected, found = ids[: lengths[row]], answers[row].prompt_token_ids
            check_prompt(self.pool.servers[0].client, batch.questions[row].id, expected, found)
        return [answer.samples for answer in answers], version

    def _score(self, prompt: Prompt, drawn: RequestOutput) -> RequestOutput:
        """Have one question's completions scored by whoever is there to do so."""
        if self.reference is not None:
            drawn = self.reference.pool.score(prompt, drawn)
        return drawn if self.teacher is None else self.teacher.score(prompt, drawn)

    def close(self) -> None:
        """Close connections and delete the weights that were sent, where a stage has begun."""
        if self._pool is not None:
            self._pool.close()
        if self.reference is not None:
            self.reference.pool.close()
        if self.teacher is not None:
            self.teacher.pool.close()
        if self._pusher is not None:
            self._pusher.close()
        self._pool = self._pusher = self._gate = self.reference = self.teacher = None
