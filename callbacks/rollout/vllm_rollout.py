"""Rollouts from external vLLM servers, which are given the weights after each optimizer step."""

import copy
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from callbacks.rollout.ahead import RolloutsAhead, look_ahead, next_batch
from callbacks.rollout.dead_groups import revive, without_spares
from callbacks.rollout.parity_gate import ParityGate
from callbacks.rollout.rollout_callback import RolloutCallback
from callbacks.rollout.rollout_servers import RolloutServers
from callbacks.rollout.transfer_pusher import TransferPusher
from callbacks.rollout.weight_pusher import WeightPusher
from datamodules.batching.batch import AudioQABatch
from inference.reference_pool import ReferencePool
from inference.server_pool import ServerPool
from inference.teacher_pool import TeacherPool
from inference.vllm.sampling import CompletionOutput, SamplingParams
from inference.weight_transfer.transfer import WeightTransfer
from lightning_modules.doors import RolloutModule, TrainingRollouts
from runtime.errors import UserError


class VLLMRollout(RolloutCallback):
    """Samples completions on external vLLM servers.

    Weights are pushed before the first batch and after each optimizer step; every completion must come from the
    version that was pushed last. Servers that were restarted get the current weights again, and requests that were lost
    are repeated with the same seeds, so that no batch is lost.

    With ``max_staleness`` 1 the servers sample the next batch while the trainer works on the present one, with the
    weights from before its step. The servers' log-probabilities then are those of the policy that sampled, and the
    module weights the objective accordingly. The first batch of an epoch and the first after resuming are sampled with
    the present weights.

    Where the module wants its reference on servers (``reference_urls`` of GRPOModule) or a teacher (``distillation``),
    these score each question's completions as soon as they have come, while others are still being sampled.
    """

    def __init__(
        self,
        server_urls: list[str],
        max_new_tokens: int = 256,
        eval_max_new_tokens: int | None = None,
        seed: int | None = None,
        sync_dir: str | None = None,
        server_checkpoint: str | None = None,
        wait_seconds: float = 600.0,
        retry_seconds: float = 600.0,
        request_seconds: float = 600.0,
        parity_gate: bool = True,
        parity_tolerance: float | None = None,
        run_id: str | None = None,
        max_staleness: int = 0,
        weight_transfer: WeightTransfer | None = None,
    ) -> None:
        """Describe servers and limits; nothing is contacted yet.

        Args:
            server_urls: Addresses of the servers, for example ``[http://127.0.0.1:8000]``; requests go to whichever has
                room. Start one with ``python -m inference.vllm_server --model DIR``.
            max_new_tokens: Longest completion in training.
            eval_max_new_tokens: Longest completion in validation, test and prediction; by default as in training.
            seed: Seed of the sampling; by default that of ``seed_everything``.
            sync_dir: Directory through which weights travel; trainer and servers must both reach it under this path.
                By default shared memory where it has room and all servers can read it, else a folder in the trainer's
                root directory; which way was taken, and why, is said once.
            server_checkpoint: Directory of the checkpoint that the servers were started with, against which names and
                shapes are checked; needed only when the server's own path does not exist on this machine.
            wait_seconds: How long to wait for the servers at the start.
            retry_seconds: How long to try again when servers are lost in mid-run.
            request_seconds: Give up a single request after this time and repeat it.
            parity_gate: Compare prompts, hearing and log-probabilities before the first step, and refuse to go on when
                they differ.
            parity_tolerance: Largest accepted difference of a log-probability between trainer and server; by default
                0.001 when both compute in float32, and otherwise a mean difference of 0.1.
            run_id: Name of this run in the servers' weight versions ``<run_id>:<step>``; by default drawn at random and
                kept in checkpoints.
            max_staleness: Optimizer steps (training batches, to be exact) by which the weights that sample may be older
                than those that are trained: 0 is strictly on-policy, with 1 the servers sample the next batch while the
                trainer works on the present one.
            weight_transfer: How weights are sent without files: ``callbacks.NCCLTransfer`` to servers on other GPUs,
                ``callbacks.IPCTransfer`` to a server on the trainer's own, ``callbacks.GlooTransfer`` to servers on the
                CPU, which are started with ``--weight-transfer`` and ``nccl``, ``ipc`` or ``gloo``. By default as files
                through ``sync_dir``, which every server can read.
        """
        super().__init__(max_new_tokens, eval_max_new_tokens, seed)
        urls = [server_urls] if isinstance(server_urls, str) else list(server_urls)
        self.run_id = run_id
        if max_staleness not in (0, 1):
            raise UserError(f"max_staleness is {max_staleness}: 0 (on-policy) and 1 (one batch ahead) are possible")
        if weight_transfer is not None and sync_dir is not None:
            raise UserError("weights travel as files through sync_dir or are sent by weight_transfer: leave one away")
        self.max_staleness = max_staleness
        self._ahead = RolloutsAhead()
        self._servers = RolloutServers(
            partial(ServerPool, urls, wait_seconds, retry_seconds, request_seconds),
            partial(WeightPusher, sync_dir=sync_dir, server_checkpoint=server_checkpoint)
            if weight_transfer is None
            else partial(TransferPusher, way=weight_transfer, server_checkpoint=server_checkpoint),
            partial(ParityGate, tolerance=parity_tolerance) if parity_gate else None,
            lambda urls: ReferencePool(urls, wait_seconds, retry_seconds, request_seconds),
            lambda urls: TeacherPool(urls, wait_seconds, retry_seconds, request_seconds),
        )
        self._kept_of_reference: dict[str, Any] | None = None

    @property
    def weight_version(self) -> str | None:
        """Name of the weights that the servers have; None before the first push."""
        return self._servers.version

    def state_dict(self) -> dict[str, Any]:
        """Keep for resuming the run's name, and what servers with the reference must think of a completion."""
        return {"run_id": self.run_id, "reference": self._of_reference()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on under the same name."""
        self.run_id = state_dict["run_id"]
        self._kept_of_reference = state_dict.get("reference")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for the servers and check how they were started."""
        self._ahead = RolloutsAhead()
        self._servers.open(self.module(pl_module), stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse questions that no server has room for, now and not when their batch comes."""
        if self.module(pl_module).training_rollouts is not None:
            self._servers.check_questions(trainer, "train", self.max_new_tokens)
            self._servers.meet_teacher(trainer, self.module(pl_module))
        if trainer.enable_validation:
            self._servers.check_questions(trainer, "val", self.eval_max_new_tokens)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Push the weights that the run starts with."""
        self._sync(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Push the weights that the run starts with, where training rolls out."""
        if self.module(pl_module).training_rollouts is None:
            return
        if self.max_staleness:
            look_ahead(trainer)
        if (reference := self._servers.reference) is not None:
            reference.check_again(trainer, self._kept_of_reference)
        self._sync(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: AudioQABatch, batch_idx: int
    ) -> None:
        """Fill a training batch, and with ``max_staleness`` have the next one sampled in the meantime."""
        module = self.module(pl_module)
        wanted = module.training_rollouts
        if not self.max_staleness or wanted is None:
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        elif batch.completions is None:
            self._fill_from_ahead(trainer, module, wanted, batch)
            self._begin_next(trainer, module, wanted, batch_idx)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: AudioQABatch, batch_idx: int
    ) -> None:
        """Push the weights if the optimizer has stepped, where training rolls out."""
        if self.module(pl_module).training_rollouts is not None and not self.max_staleness:
            self._sync(trainer, pl_module, timed=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Push the weights if the servers have older ones."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._servers.check_questions(trainer, "val", self.eval_max_new_tokens)
        self._sync(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Push the weights that are tested."""
        self._servers.check_questions(trainer, "test", self.eval_max_new_tokens)
        self._sync(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Push the weights that predict."""
        self._servers.check_questions(trainer, "predict", self.eval_max_new_tokens)
        self._sync(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close connections and delete the weights that were sent."""
        self._kept_of_reference = self._of_reference()
        self._servers.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close connections and delete the weights that were sent."""
        self._kept_of_reference = self._of_reference()
        self._servers.close()

    def prepare(
        self, trainer: Trainer, pl_module: RolloutModule, batch: AudioQABatch, sampling: list[SamplingParams]
    ) -> None:
        """Pass the servers through the parity gate where all ranks must compute for it together."""
        self._servers.pass_together(trainer, pl_module, batch, sampling[0])
        if trainer.training:
            self._servers.pass_reference_together(trainer, pl_module, batch, sampling[0])

    def sample(
        self, trainer: Trainer, pl_module: RolloutModule, batch: AudioQABatch, sampling: list[SamplingParams]
    ) -> tuple[list[list[CompletionOutput]], str]:
        """Draw the completions of a batch on the servers."""
        servers = self._servers
        servers.check_batch(batch, sampling)
        drawn = self._draw(trainer, pl_module, batch, sampling)
        self._pass_alone(trainer, pl_module, batch, sampling[0])  # for servers that were restarted in between
        return drawn

    @override
    def sample_again(
        self,
        trainer: Trainer,
        pl_module: RolloutModule,
        batch: AudioQABatch,
        sampling: list[SamplingParams],
        rows: Sequence[int],
    ) -> list[list[CompletionOutput]]:
        if not rows:  # this rank still takes part where all push the weights together
            assert self.weight_version is not None
            return self._draw(trainer, pl_module, batch, sampling, ([], self.weight_version))[0]
        return super().sample_again(trainer, pl_module, batch, sampling, rows)

    def _draw(
        self,
        trainer: Trainer,
        module: RolloutModule,
        batch: AudioQABatch,
        sampling: list[SamplingParams],
        drawn: tuple[list[list[CompletionOutput]], str] | None = None,
    ) -> tuple[list[list[CompletionOutput]], str]:
        """Draw what is not drawn yet; where the servers of a rank have lost the weights, all ranks push together."""
        servers = self._servers
        while True:
            if drawn is None:
                self._pass_alone(trainer, module, batch, sampling[0])
                drawn = servers.draw(batch, sampling, scored=bool(trainer.training))
            if servers.all_have_drawn(trainer, drawn is not None):
                assert drawn is not None
                return drawn
            self.run_id = servers.push(trainer, module, self.run_id)
            self.prepare(trainer, module, batch, sampling)

    def _pass_alone(
        self, trainer: Trainer, module: RolloutModule, batch: AudioQABatch, sampling: SamplingParams
    ) -> None:
        """Pass the servers through the gates where this rank can do so alone."""
        self._servers.pass_alone(trainer, module, batch, sampling)
        if trainer.training:
            self._servers.pass_reference_alone(trainer, module, batch, sampling)
            self._servers.pass_teacher(module, batch)

    def _fill_from_ahead(
        self, trainer: Trainer, module: RolloutModule, wanted: TrainingRollouts, batch: AudioQABatch
    ) -> None:
        """Fill a batch with what was drawn for it during the one before, or now where nothing was."""
        begun = time.perf_counter()
        whole = copy.copy(batch)
        batch.become(without_spares(whole, wanted))
        sampling = self.train_sampling(trainer.global_step, module, wanted, batch)
        drawn = self._ahead.take(batch)
        waited = time.perf_counter() - begun
        self._sync(trainer, module, timed=True)  # nothing is under way now, so that it takes as long as the transfer
        self.prepare(trainer, module, batch, sampling)
        if drawn is None:
            samples = self._fill(trainer, module, batch, sampling)
            waited = time.perf_counter() - begun
        else:
            samples = drawn.samples
            self._draw(trainer, module, batch, sampling, (samples, drawn.version))  # another rank may have none
            self.put(module, batch, samples, drawn.version, drawn.seconds, drawn.sampling)
            self._pass_alone(trainer, module, batch, sampling[0])  # for servers that were restarted in between
        done = batch.completions
        assert done is not None and done.weight_version is not None
        done.stale = done.weight_version != self.weight_version
        revive(self, trainer, module, wanted, batch, samples, whole)
        module.log("time/rollout_wait", waited, on_step=True, on_epoch=False, batch_size=1)
        self._log_rollout(module, batch, int(done.weight_version.rpartition(":")[2]))

    def _begin_next(self, trainer: Trainer, module: RolloutModule, wanted: TrainingRollouts, batch_idx: int) -> None:
        """Have the batch after the present one sampled while the trainer works on this one."""
        after = trainer.global_step + wanted.steps
        if (upcoming := next_batch(trainer, batch_idx, after)) is None:
            return
        upcoming = without_spares(upcoming, wanted)
        servers = self._servers
        sampling = self.train_sampling(after, module, wanted, upcoming)
        servers.check_batch(upcoming, sampling)
        self._ahead.begin(upcoming, sampling, lambda: servers.draw(upcoming, sampling, scored=True))

    def _of_reference(self) -> dict[str, Any] | None:
        """What a resumed run must know of servers with the reference."""
        reference = self._servers.reference
        return (reference.state() if reference is not None else None) or self._kept_of_reference

    @override
    def _log_rollout(self, pl_module: LightningModule, batch: AudioQABatch, version: int) -> None:
        super()._log_rollout(pl_module, batch, version)
        if (reference := self._servers.reference) is not None:
            seconds = reference.seconds()
            pl_module.log("time/reference", seconds, on_step=True, on_epoch=False, batch_size=len(batch))
        if (teacher := self._servers.teacher) is not None:
            seconds = teacher.pool.mean_seconds()
            pl_module.log("time/teacher", seconds, on_step=True, on_epoch=False, batch_size=len(batch))

    def _sync(self, trainer: Trainer, pl_module: LightningModule, timed: bool = False) -> None:
        """Push the current weights where the servers have others; all ranks return together.

        Args:
            trainer: The trainer.
            pl_module: The module with the student.
            timed: Log how long it took, where there was something to push.
        """
        if self._servers.have_weights_of(trainer.global_step):
            return
        begun = time.perf_counter()
        if self.max_staleness:
            self._ahead.settle()
            trainer.strategy.barrier("rollouts_ahead")  # weights must not change under another rank's rollouts either
        # nobody samples before the push has ended, and nobody goes on when it has failed
        self.run_id = self._servers.push(trainer, self.module(pl_module), self.run_id)
        if timed:
            seconds = time.perf_counter() - begun
            pl_module.log("time/sync", seconds, on_step=True, on_epoch=False, batch_size=1)
