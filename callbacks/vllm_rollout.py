"""Rollouts from external vLLM servers, which are given the weights after each optimizer step."""

import atexit
import dataclasses
import fcntl
import ipaddress
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.ahead import Ahead
from callbacks.parity import check_prompt, judge_parity, measure_parity
from callbacks.rollout import RolloutCallback
from callbacks.sampling import Sample, Sampling
from callbacks.server_pool import ServerPool
from callbacks.vllm_client import ServerUnreachable, audio_url
from callbacks.weight_sync import (
    TensorSpec,
    WeightDirectory,
    WeightSyncError,
    check_weights,
    find_checkpoint,
    read_specs,
)
from datamodules.batch import AudioQABatch
from datamodules.records import UserError

log = logging.getLogger("lightning.pytorch.rollout")  # below Lightning's logger, so that it is seen

PREFIX = "sightsound-r1-weights-"
SHARED_MEMORY = Path("/dev/shm")

FLOAT32_TOLERANCE = 1e-3
LOW_PRECISION_MEAN_TOLERANCE = 0.1


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
                room. Start one with ``python -m callbacks.vllm_server --model DIR``.
            max_new_tokens: Longest completion in training.
            eval_max_new_tokens: Longest completion in validation, test and prediction; by default as in training.
            seed: Seed of the sampling; by default that of ``seed_everything``.
            sync_dir: Directory through which weights travel; trainer and servers must both reach it under this path.
                By default shared memory for servers on this machine, when there is room, else a folder in the
                trainer's root directory.
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
        self._ahead: Ahead[tuple[list[list[Sample]], str]] | None = None
        self._ahead_of: tuple[list[str], list[Sampling]] | None = None
        self._new_pool()  # refuses malformed addresses before anything is loaded
        self._pool: ServerPool | None = None
        self._directory: WeightDirectory | None = None
        self._owner: IO[str] | None = None
        self._specs: dict[str, TensorSpec] | None = None
        self._version: str | None = None
        self._gate_passed = False

    @property
    def weight_version(self) -> str | None:
        """Name of the weights that the servers have; None before the first push."""
        return self._version

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
        trains = stage == "fit" and getattr(pl_module, "rollouts_in_training", False)
        self._pool.wait(module.num_completions if trains else 1, getattr(module.student, "weights", "DIR"))

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
                        "datamodules.sampler.ResumableLoader: use a DataModule of this project, or max_staleness 0"
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
        taken = self._take_ahead(pl_module, batch)
        waited = time.perf_counter() - begun
        if self._sync(trainer, pl_module):  # nothing is under way now, so that it takes as long as the transfer
            seconds = time.perf_counter() - begun - waited
            pl_module.log("time/sync", seconds, on_step=True, on_epoch=False, batch_size=1)
        if taken:
            sampling = self._train_sampling(trainer.global_step, pl_module, batch)
            self._gate(trainer, pl_module, batch, sampling[0])  # for servers that were restarted in between
        else:
            self._fill(trainer, pl_module, batch, self._train_sampling(trainer.global_step, pl_module, batch))
            waited = time.perf_counter() - begun
        done = batch.completions
        assert done is not None and done.weight_version is not None
        done.stale = done.weight_version != self._version
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
        self._sync(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Push the weights that are tested."""
        self._sync(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Push the weights that predict."""
        self._sync(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close connections and delete the weights that were sent."""
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close connections and delete the weights that were sent."""
        self._release()

    def sample(
        self, trainer: Trainer, pl_module: LightningModule, batch: AudioQABatch, sampling: list[Sampling]
    ) -> tuple[list[list[Sample]], str]:
        """Draw the completions of a batch on the servers, all requests at once."""
        pool, version = self._pool, self._version
        assert pool is not None and version is not None, "weights are pushed before the first batch"
        self._check_lengths(pool, batch, sampling)
        self._gate(trainer, pl_module, batch, sampling[0])
        samples = self._draw(pool, batch, sampling)
        self._gate(trainer, pl_module, batch, sampling[0])  # for servers that were restarted in between
        return samples, version

    def _draw(self, pool: ServerPool, batch: AudioQABatch, sampling: list[Sampling]) -> list[list[Sample]]:
        urls = [audio_url(waveform) for waveform in batch.waveforms]
        answers = pool.generate(list(zip(batch.request_ids, urls, sampling, strict=True)))
        lengths = batch.prompt_lengths.tolist()
        for row, answer in enumerate(answers):
            expected = batch.prompt_ids[row, : lengths[row]].tolist()
            check_prompt(pool.servers[0].client, batch.questions[row].id, expected, answer.prompt_token_ids)
        return [answer.samples for answer in answers]

    def _look_ahead(self, trainer: Trainer, pl_module: Any, batch_idx: int) -> None:
        """Have the batch after the present one sampled while the trainer works on this one."""
        upcoming: AudioQABatch | None = getattr(trainer.train_dataloader, "upcoming", None)
        steps = getattr(pl_module, "optimization_epochs", 1)
        after = trainer.global_step + steps
        last = batch_idx + 1 >= trainer.num_training_batches or 0 < trainer.max_steps <= after
        if upcoming is None or last:
            return
        pool, version = self._pool, self._version
        assert pool is not None and version is not None
        sampling = self._train_sampling(after, pl_module, upcoming)
        self._check_lengths(pool, upcoming, sampling)
        self._ahead_of = ([question.id for question in upcoming.questions], sampling)
        self._ahead = Ahead(lambda: (self._draw(pool, upcoming, sampling), version))

    def _take_ahead(self, pl_module: Any, batch: AudioQABatch) -> bool:
        """Fill a batch with what was sampled for it in the meantime; False when nothing was."""
        ahead, expected = self._ahead, self._ahead_of
        self._ahead = self._ahead_of = None
        if ahead is None or expected is None:
            return False
        samples, version = ahead.result()
        ids, sampling = expected
        if ids != [question.id for question in batch.questions]:
            return False
        self._put(pl_module, batch, samples, version, ahead.seconds, sampling[0].stop_token_ids)
        return True

    def _settle(self) -> None:
        """Wait until nothing is sampled ahead any more."""
        if self._ahead is not None:
            self._ahead.result()

    def _new_pool(self) -> ServerPool:
        return ServerPool(self.server_urls, self.wait_seconds, self.retry_seconds, self.request_seconds)

    def _sync(self, trainer: Trainer, pl_module: Any) -> bool:
        """Push the current weights where the servers have others; all ranks return together.

        Returns:
            True when there was something to push.
        """
        assert self._pool is not None
        if self._version is not None and self._version.rpartition(":")[2] == str(trainer.global_step):
            return False
        if self.max_staleness:
            self._settle()
            trainer.strategy.barrier("rollouts_ahead")  # weights must not change under another rank's rollouts either
        problem: UserError | None = None
        root, run_id = None, self.run_id
        student = pl_module.student  # all ranks gather its weights where they are sharded
        weights = student.hub_state_dict() if trainer.is_global_zero or student.sharded else {}
        if trainer.is_global_zero:
            try:
                run_id = self.run_id or secrets.token_hex(4)
                self._push(trainer, weights, f"{run_id}:{trainer.global_step}", student.family.foreign)
                root = self._directory and self._directory.root
            except UserError as error:
                problem = error
        # nobody samples before the push has ended, and nobody goes on when it has failed
        problem, run_id, root = trainer.strategy.broadcast((problem, run_id, root))
        if problem is not None:
            raise problem
        self.run_id = run_id
        self._version = f"{run_id}:{trainer.global_step}"
        if not trainer.is_global_zero:
            self._directory = self._directory or WeightDirectory(str(root))
            self._pool.expect(self._directory, self._version)
        return True

    def _push(self, trainer: Trainer, weights: Mapping[str, Tensor], version: str, foreign: tuple[str, ...]) -> None:
        assert self._pool is not None
        if self._specs is None:
            info = self._pool.servers[0].info
            assert info is not None
            specs = read_specs(find_checkpoint(self.server_checkpoint or info.model))
            self._specs = {name: spec for name, spec in specs.items() if not name.startswith(foreign)}
        check_weights(weights, self._specs)
        first = self._directory is None
        if self._directory is None:
            size = sum(value.nbytes for value in weights.values())
            self._directory = WeightDirectory(self._make_directory(Path(trainer.default_root_dir), size))
        self._directory.write(weights, version, self._specs)
        self._pool.expect(self._directory, version)
        self._pool.push(force=first)

    def _make_directory(self, root: Path, size: int) -> Path:
        """Make a directory of this run; those that killed runs have left behind are deleted."""
        if self.sync_dir is not None:
            parent = Path(self.sync_dir)
        elif all(_on_this_machine(url) for url in self.server_urls) and _has_room(SHARED_MEMORY, 3 * size):
            parent = SHARED_MEMORY
        else:
            parent = root / "weight_sync"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(parent)
            directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            directory.chmod(0o755)  # the server may run as another user
            self._owner = open(directory / "owner", "w")  # noqa: SIM115
            fcntl.flock(self._owner, fcntl.LOCK_EX)
        except OSError as error:
            raise WeightSyncError(f"weights cannot be written to {parent} ({error}): set sync_dir") from None
        atexit.register(self._release)
        return directory

    def _release(self) -> None:
        if self._pool is not None:
            self._pool.close()
        if self._owner is not None:
            assert self._directory is not None
            self._directory.remove()
            self._owner.close()
            atexit.unregister(self._release)
        self._pool = self._directory = self._owner = self._specs = self._version = None
        self._ahead = self._ahead_of = None
        self._gate_passed = False

    def _check_lengths(self, pool: ServerPool, batch: AudioQABatch, sampling: list[Sampling]) -> None:
        longest = int(batch.prompt_lengths.max())
        needed = longest + sampling[0].max_tokens
        for server in pool.servers:
            limit = server.info.max_model_len if server.info else None
            if limit is not None and needed > limit:
                raise UserError(
                    f"a prompt of {longest} tokens and {sampling[0].max_tokens} new ones do not fit into the "
                    f"{limit} tokens of {server.url}: lower max_new_tokens or start the server "
                    f"with --max-model-len {needed}"
                )

    def _gate(self, trainer: Trainer, pl_module: Any, batch: AudioQABatch, sampling: Sampling) -> None:
        """Pass every server that was started since the last time through the parity gate."""
        assert self._pool is not None
        for server in self._pool.servers:
            if not self.parity_gate or not server.gate_due or server.suspect:
                continue
            if pl_module.student.sharded and self._gate_passed:
                continue  # scoring is a common act of all ranks then, but only this one has met a new server
            temperature = getattr(pl_module, "temperature", 1.0)
            try:
                with trainer.precision_plugin.forward_context():
                    parity = measure_parity(
                        server.client, pl_module.student, batch, temperature, sampling.max_tokens, sampling.seed
                    )
            except ServerUnreachable as error:
                log.warning(f"{error}: the parity gate is repeated when it is back")
                server.suspect = True
                continue
            weights = next(pl_module.student.parameters()).dtype
            exact = server.info is not None and server.info.dtype == "float32" and weights == torch.float32
            exact = exact and trainer.precision in ("32-true", "64-true")
            largest = self.parity_tolerance or (FLOAT32_TOLERANCE if exact else float("inf"))
            mean = FLOAT32_TOLERANCE if exact else LOW_PRECISION_MEAN_TOLERANCE
            judge_parity(parity, server.url, largest, max(mean, self.parity_tolerance or 0.0))
            server.gate_due = False
            measured = ", ".join(f"{name} {value:.2g}" for name, value in dataclasses.asdict(parity).items())
            log.info(f"Parity with {server.url}: {measured}")
        self._gate_passed = True


def _on_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _has_room(directory: Path, size: int) -> bool:
    return directory.is_dir() and os.access(directory, os.W_OK) and shutil.disk_usage(directory).free > size


def _remove_abandoned(parent: Path) -> None:
    """Delete directories whose owner does not hold their lock any more."""
    for directory in parent.glob(f"{PREFIX}*"):
        try:
            with open(directory / "owner") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
        except OSError:
            continue  # in use, or just being made
