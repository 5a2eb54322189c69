"""Rollouts from external vLLM servers, which are given the weights after each optimizer step."""

import time
from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.rollout.ahead import RolloutsAhead
from callbacks.rollout.parity import check_prompt
from callbacks.rollout.parity_gate import ParityGate
from callbacks.rollout.prompt_lengths import check_batch, check_questions
from callbacks.rollout.rollout_callback import RolloutCallback
from callbacks.rollout.weight_pusher import WeightPusher
from datamodules.audio_qa import AudioQADataModule, Role
from datamodules.batching.batch import AudioQABatch
from inference.server_pool import Prompt, ServerPool
from inference.vllm.client import audio_url
from inference.vllm.sampling import Sample, Sampling
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
        """
        super().__init__(max_new_tokens, eval_max_new_tokens, seed)
        self.server_urls = [server_urls] if isinstance(server_urls, str) else list(server_urls)
        self.sync_dir = sync_dir
        self.server_checkpoint = server_checkpoint
        self.wait_seconds = wait_seconds
        self.retry_seconds = retry_seconds
        self.request_seconds = request_seconds
        self.parity_gate = parity_gate
        self.parity_tolerance = parity_tolerance
        self.run_id = run_id
        if max_staleness not in (0, 1):
            raise UserError(f"max_staleness is {max_staleness}: 0 (on-policy) and 1 (one batch ahead) are possible")
        self.max_staleness = max_staleness
        self._ahead = RolloutsAhead()
        self._new_pool()  # refuses malformed addresses before anything is loaded
        self._pool: ServerPool | None = None
        self._pusher: WeightPusher | None = None
        self._parity: ParityGate | None = None

    @property
    def weight_version(self) -> str | None:
        """Name of the weights that the servers have; None before the first push."""
        return self._pusher.version if self._pusher is not None else None

    def state_dict(self) -> dict[str, Any]:
        """Keep the run's name for resuming."""
        return {"run_id": self.run_id}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on under the same name."""
        self.run_id = state_dict["run_id"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for the servers and check how they were started."""
        self._release()
        module: Any = pl_module
        self._pool = self._new_pool()
        self._pusher = WeightPusher(self._pool, self.sync_dir, self.server_checkpoint)
        self._parity = ParityGate(self._pool, self.parity_tolerance) if self.parity_gate else None
        trains = stage == "fit" and getattr(pl_module, "rollouts_in_training", False)
        self._pool.wait(module.num_completions if trains else 1, getattr(module.student, "weights", "DIR"))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse questions that no server has room for, now and not when their batch comes."""
        if getattr(pl_module, "rollouts_in_training", False):
            self._check_questions(trainer, "train", self.max_new_tokens)
        if trainer.enable_validation:
            self._check_questions(trainer, "val", self.eval_max_new_tokens)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Push the weights that the run starts with."""
        self._sync(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Push the weights that the run starts with, where training rolls out."""
        if getattr(pl_module, "rollouts_in_training", False):
            if self.max_staleness:
                loader: Any = trainer.train_dataloader
                if not hasattr(loader, "look_ahead"):
                    raise UserError(
                        "max_staleness 1 needs a loader that knows the next batch, such as "
                        "datamodules.batching.sampler.ResumableLoader: use a DataModule of this project, or "
                        "max_staleness 0"
                    )
                loader.look_ahead = True
            self._sync(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: AudioQABatch, batch_idx: int
    ) -> None:
        """Fill a training batch, and with ``max_staleness`` have the next one sampled in the meantime."""
        if not self.max_staleness or not getattr(pl_module, "rollouts_in_training", False):
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            return
        if batch.completions is not None:
            return
        begun = time.perf_counter()
        sampling = self._train_sampling(trainer.global_step, pl_module, batch)
        drawn = self._ahead.take(batch)
        waited = time.perf_counter() - begun
        if self._sync(trainer, pl_module):  # nothing is under way now, so that it takes as long as the transfer
            seconds = time.perf_counter() - begun - waited
            pl_module.log("time/sync", seconds, on_step=True, on_epoch=False, batch_size=1)
        self.prepare(trainer, pl_module, batch, sampling)
        if drawn is not None:
            stop = drawn.sampling[0].stop_token_ids
            self._put(pl_module, batch, drawn.samples, drawn.version, drawn.seconds, stop)
            self._gate(trainer, pl_module, batch, sampling)  # for servers that were restarted in between
        else:
            self._fill(trainer, pl_module, batch, sampling)
            waited = time.perf_counter() - begun
        done = batch.completions
        assert done is not None and done.weight_version is not None
        done.stale = done.weight_version != self.weight_version
        pl_module.log("time/rollout_wait", waited, on_step=True, on_epoch=False, batch_size=1)
        self._log_rollout(pl_module, batch, int(done.weight_version.rpartition(":")[2]))
        self._look_ahead(trainer, pl_module, batch_idx)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: AudioQABatch, batch_idx: int
    ) -> None:
        """Push the weights if the optimizer has stepped, where training rolls out."""
        if getattr(pl_module, "rollouts_in_training", False) and not self.max_staleness:
            begun = time.perf_counter()
            if self._sync(trainer, pl_module):
                pl_module.log("time/sync", time.perf_counter() - begun, on_step=True, on_epoch=False, batch_size=1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Push the weights if the servers have older ones."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._check_questions(trainer, "val", self.eval_max_new_tokens)
        self._sync(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Push the weights that are tested."""
        self._check_questions(trainer, "test", self.eval_max_new_tokens)
        self._sync(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Push the weights that predict."""
        self._check_questions(trainer, "predict", self.eval_max_new_tokens)
        self._sync(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close connections and delete the weights that were sent."""
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close connections and delete the weights that were sent."""
        self._release()

    def prepare(
        self, trainer: Trainer, pl_module: LightningModule, batch: AudioQABatch, sampling: list[Sampling]
    ) -> None:
        """Pass the servers through the parity gate where all ranks must compute for it together."""
        module: Any = pl_module
        if self._parity is not None and module.student.sharded:
            self._parity.pass_together(trainer, module, batch, sampling[0])

    def sample(
        self, trainer: Trainer, pl_module: LightningModule, batch: AudioQABatch, sampling: list[Sampling]
    ) -> tuple[list[list[Sample]], str]:
        """Draw the completions of a batch on the servers, all requests at once."""
        pool, version = self._pool, self.weight_version
        assert pool is not None and version is not None, "weights are pushed before the first batch"
        check_batch(batch, sampling[0].max_tokens, pool.servers)
        self._gate(trainer, pl_module, batch, sampling)
        samples = self._draw(pool, batch, sampling)
        self._gate(trainer, pl_module, batch, sampling)  # for servers that were restarted in between
        return samples, version

    def _draw(self, pool: ServerPool, batch: AudioQABatch, sampling: list[Sampling]) -> list[list[Sample]]:
        prompts = [
            Prompt(f"{question.id} ({question.media})", ids, audio_url(waveform), how)
            for question, ids, waveform, how in zip(
                batch.questions, batch.request_ids, batch.waveforms, sampling, strict=True
            )
        ]
        answers = pool.generate(prompts)
        lengths = batch.prompt_lengths.tolist()
        for row, ids in enumerate(batch.prompt_ids.tolist()):  # one transfer, while the servers have worked
            expected, found = ids[: lengths[row]], answers[row].prompt_token_ids
            check_prompt(pool.servers[0].client, batch.questions[row].id, expected, found)
        return [answer.samples for answer in answers]

    def _look_ahead(self, trainer: Trainer, pl_module: Any, batch_idx: int) -> None:
        """Have the batch after the present one sampled while the trainer works on this one."""
        upcoming: AudioQABatch | None = getattr(trainer.train_dataloader, "upcoming", None)
        steps = getattr(pl_module, "optimization_epochs", 1)
        after = trainer.global_step + steps
        last = batch_idx + 1 >= trainer.num_training_batches or 0 < trainer.max_steps <= after
        if upcoming is None or last:
            return
        pool, version = self._pool, self.weight_version
        assert pool is not None and version is not None
        sampling = self._train_sampling(after, pl_module, upcoming)
        check_batch(upcoming, sampling[0].max_tokens, pool.servers)
        self._ahead.begin(upcoming, sampling, lambda: (self._draw(pool, upcoming, sampling), version))

    def _new_pool(self) -> ServerPool:
        return ServerPool(self.server_urls, self.wait_seconds, self.retry_seconds, self.request_seconds)

    def _sync(self, trainer: Trainer, pl_module: Any) -> bool:
        """Push the current weights where the servers have others; all ranks return together.

        Returns:
            True when there was something to push.
        """
        assert self._pusher is not None
        version = self._pusher.version
        if version is not None and version.rpartition(":")[2] == str(trainer.global_step):
            return False
        if self.max_staleness:
            self._ahead.settle()
            trainer.strategy.barrier("rollouts_ahead")  # weights must not change under another rank's rollouts either
        # nobody samples before the push has ended, and nobody goes on when it has failed
        self.run_id = self._pusher.push(trainer, pl_module.student, self.run_id)
        return True

    def _release(self) -> None:
        if self._pool is not None:
            self._pool.close()
        if self._pusher is not None:
            self._pusher.close()
        self._pool = self._pusher = self._parity = None
        self._ahead = RolloutsAhead()

    def _check_questions(self, trainer: Trainer, role: Role, new_tokens: int) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        assert self._pool is not None
        if isinstance(data, AudioQADataModule):
            check_questions(data, role, new_tokens, self._pool.servers)

    def _gate(self, trainer: Trainer, pl_module: Any, batch: AudioQABatch, sampling: list[Sampling]) -> None:
        """Pass servers through the parity gate where this rank can do so alone."""
        if self._parity is not None and not pl_module.student.sharded:
            self._parity.pass_alone(trainer, pl_module, batch, sampling[0])
