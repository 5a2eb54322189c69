"""Servers that score rollouts under the reference: how they are let in, and what is kept of them in checkpoints."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

from lightning import Trainer

from callbacks.rollout.parity_gate import ParityGate
from datamodules.batching.batch import AudioQABatch
from inference.reference_pool import ReferencePool, ReferenceProbe
from inference.server_pool import ServerPool
from inference.vllm.sampling import SamplingParams
from lightning_modules.doors import RolloutModule

log = logging.getLogger("lightning.pytorch.rollout")  # below Lightning's logger, so that it is seen


class ReferenceServers:
    """A pool of servers with the reference, and who lets them in.

    Before the first optimizer step the policy is the reference, so that the parity gate compares the servers with the
    trainer. Later nobody has the reference but they: the first completion that was scored is kept in checkpoints, and
    a server that was started again, or that a resumed run meets, must score it as before.

    Attributes:
        pool: The servers.
    """

    def __init__(self, pool: ReferencePool, make_gate: Callable[[ServerPool], ParityGate] | None) -> None:
        """Describe them; nothing is contacted.

        Args:
            pool: The servers.
            make_gate: Makes what compares them with the trainer; None compares nothing.
        """
        self.pool = pool
        self._gate = make_gate(pool) if make_gate is not None else None

    def state(self) -> dict[str, Any] | None:
        """Return what a resumed run must know; None before anything was scored."""
        probe = self.pool.keeper.probe
        return dataclasses.asdict(probe) if probe is not None else None

    def check_again(self, trainer: Trainer, state: Mapping[str, Any] | None) -> None:
        """Compare the servers with what a resumed run has kept of them.

        Args:
            trainer: The trainer, at its start.
            state: What was kept.

        Raises:
            UserError: One holds other weights.
        """
        if state is not None:
            self.pool.keeper.probe = ReferenceProbe(**state)
            for server in self.pool.servers:
                self.pool.keeper.check_probe(server)
        elif trainer.global_step > 0:
            log.warning(
                "This run goes on with a reference on servers, and began without: whether they hold the SFT policy "
                "cannot be found out, because the policy has moved on. They must have been started with the "
                "checkpoint that model.weights names"
            )

    def pass_together(
        self, trainer: Trainer, module: RolloutModule, batch: AudioQABatch, sampling: SamplingParams
    ) -> None:
        """Let the servers pass the gate where all ranks must compute for it together, while the policy is theirs."""
        if self._gate is not None and trainer.global_step == 0 and module.student.sharded:
            self._gate.pass_together(trainer, module, batch, sampling)

    def pass_alone(
        self, trainer: Trainer, module: RolloutModule, batch: AudioQABatch, sampling: SamplingParams
    ) -> None:
        """Let the servers pass the gate where this rank can do so alone, while the policy is theirs."""
        if self._gate is not None and trainer.global_step == 0 and not module.student.sharded:
            self._gate.pass_alone(trainer, module, batch, sampling)

    def seconds(self) -> float:
        """Return how long one question's completions took to be scored, on average since the last call."""
        return self.pool.mean_seconds()
