"""Who passes the parity gate when: each server before its first rollout, and again after it was started anew."""

import dataclasses
import functools
import logging
from typing import cast

import torch
from lightning import Trainer

from callbacks.rollout.parity import Asked, Parity, ask_server, compare, judge_hearing, judge_parity, unasked
from datamodules.batching.batch import AudioQABatch
from inference.server_pool import ServerPool
from inference.vllm.client import ServerUnreachable
from inference.vllm.pooled_server import PooledServer
from inference.vllm.sampling import SamplingParams
from lightning_modules.doors import RolloutModule
from lightning_modules.models.student import Student
from lightning_modules.served_qa import ServedStudent
from runtime.all_ranks import all_gather_objects, of_rank_zero

log = logging.getLogger("lightning.pytorch.rollout")  # below Lightning's logger, so that it is seen

FLOAT32_TOLERANCE = 1e-3
LOW_PRECISION_MEAN_TOLERANCE = 0.1


class ParityGate:
    """Lets servers pass that compute what the trainer computes."""

    def __init__(self, pool: ServerPool, tolerance: float | None = None) -> None:
        """Set the limits.

        Args:
            pool: The servers.
            tolerance: Largest accepted difference of a log-probability; by default 0.001 when both sides compute in
                float32, and otherwise a mean difference of 0.1.
        """
        self.pool = pool
        self.tolerance = tolerance

    def pass_alone(
        self, trainer: Trainer, module: RolloutModule, batch: AudioQABatch, sampling: SamplingParams
    ) -> None:
        """Compare servers that are due with this rank's student, which is whole.

        Args:
            trainer: The trainer.
            module: The module with the student.
            batch: Questions with real audio.
            sampling: How completions are drawn.

        Raises:
            ParityError: They differ.
        """
        for server in self.pool.servers:
            if not server.gate_due or server.suspect or (asked := self._ask(server, module, batch, sampling)) is None:
                continue
            if isinstance(module.student, ServedStudent):  # the server alone has the weights
                judge_hearing(asked, server.url)
                server.gate_due = False
            else:
                self._judge(trainer, module, server, self._compare(trainer, module, asked))

    def pass_together(
        self, trainer: Trainer, module: RolloutModule, batch: AudioQABatch, sampling: SamplingParams
    ) -> None:
        """Compare servers that are due with a student whose weights are spread over the ranks.

        Computing log-probabilities is a collective act then. Which servers are due on any rank is gathered, rank 0
        alone asks them and decides for all, and all ranks compute together. All ranks must call this together.

        Args:
            trainer: The trainer.
            module: The module with the student.
            batch: This rank's questions with real audio.
            sampling: How completions are drawn.

        Raises:
            UserError: They differ; on all ranks.
        """
        due = dict.fromkeys(
            all_gather_objects(trainer, [server.url for server in self.pool.servers if server.gate_due])
        )
        for server in [server for server in self.pool.servers if server.url in due]:
            found: list[Asked] = []

            def ask(server: PooledServer = server, found: list[Asked] = found) -> bool:
                found += filter(None, [None if server.suspect else self._ask(server, module, batch, sampling)])
                return bool(found)

            if not of_rank_zero(trainer, ask):
                continue
            idle = unasked(module.student.processor, batch, 1.0)
            parity = self._compare(trainer, module, found[0] if found else idle)
            of_rank_zero(trainer, functools.partial(self._judge, trainer, module, server, parity))
            server.gate_due = False

    def _ask(
        self, server: PooledServer, module: RolloutModule, batch: AudioQABatch, sampling: SamplingParams
    ) -> Asked | None:
        wanted = module.training_rollouts
        temperature = 1.0 if wanted is None else wanted.temperature
        processor = module.student.processor
        try:
            return ask_server(server.client, processor, batch, temperature, sampling.max_tokens, sampling.seed)
        except ServerUnreachable as error:
            log.warning(f"{error}: the parity gate is repeated when it is back")
            server.suspect = True
            return None

    def _compare(self, trainer: Trainer, module: RolloutModule, asked: Asked) -> Parity:
        with trainer.precision_plugin.forward_context():
            return compare(cast(Student, module.student), asked)

    def _judge(self, trainer: Trainer, module: RolloutModule, server: PooledServer, parity: Parity) -> None:
        weights = next(cast(Student, module.student).parameters()).dtype
        exact = server.info is not None and server.info.dtype == "float32" and weights == torch.float32
        exact = exact and trainer.precision in ("32-true", "64-true")
        largest = self.tolerance or (FLOAT32_TOLERANCE if exact else float("inf"))
        mean = FLOAT32_TOLERANCE if exact else LOW_PRECISION_MEAN_TOLERANCE
        judge_parity(parity, server.url, largest, max(mean, self.tolerance or 0.0))
        server.gate_due = False
        measured = ", ".join(f"{name} {value:.2g}" for name, value in dataclasses.asdict(parity).items())
        log.info(f"Parity with {server.url}: {measured}")
