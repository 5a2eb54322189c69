"""Sends the rollout servers a student's weights, from all ranks together and without files."""

import logging
import secrets
import time
from typing import Any

import torch
from lightning import Trainer

from callbacks.rollout.weight_pusher import WeightPusher, collective_seconds, push_seconds
from inference.server_pool import ServerPool
from inference.weight_transfer.transfer import WeightStream, WeightTransfer
from inference.weight_transfer.transfer_session import TransferSession
from inference.weight_transfer.weight_directory import gigabytes
from lightning_modules.served_qa import ServedStudent
from runtime.all_ranks import of_rank_zero

log = logging.getLogger("lightning.pytorch.rollout")  # below Lightning's logger, so that it is seen


class TransferPusher(WeightPusher):
    """Gathers one weight after the other on rank 0, which sends them in buckets."""

    together = True

    def __init__(self, pool: ServerPool, way: WeightTransfer, server_checkpoint: str | None = None) -> None:
        """Describe the way.

        Args:
            pool: The servers.
            way: How weights are sent.
            server_checkpoint: Directory of the checkpoint that the servers were started with, where their own path of
                it does not exist on this machine.
        """
        super().__init__(pool, None, server_checkpoint)
        self._way = way
        self._session: TransferSession | None = None

    def push(self, trainer: Trainer, student: Any, run_id: str | None) -> str:
        """Give all servers the student's present weights; a collective act, whose failure on rank 0 all ranks raise."""
        if isinstance(student, ServedStudent):
            return super().push(trainer, student, run_id)
        begun = time.monotonic()
        device = next(student.parameters()).device
        if self._types is None:
            run_id, self._types = of_rank_zero(trainer, lambda: self._introduce(trainer, student, run_id, device))
        version = f"{run_id}:{trainer.global_step}"
        limit = push_seconds(
            self.pool.keeper.retry_seconds + self.pool.keeper.request_seconds, collective_seconds(trainer), 0.0
        )
        while not self._send_once(trainer, student, version, device, max(1.0, begun + limit - time.monotonic())):
            pass
        self.version = version
        if not trainer.is_global_zero:
            self.pool.keeper.expect(None, version)
            for server in self.pool.servers:
                server.awaits = False
        assert run_id is not None
        return run_id

    def close(self) -> None:
        """Leave the servers, and give them back."""
        if self._session is not None:
            self._session.close()
        self._session = None
        super().close()

    def _introduce(
        self, trainer: Trainer, student: Any, run_id: str | None, device: torch.device
    ) -> tuple[str, dict[str, torch.dtype]]:
        """Check whether the weights fit and can go this way; nothing is sent."""
        self._way.check(device, trainer.world_size, [server.url for server in self.pool.servers])
        types = self._fitting_types(trainer, student)
        sent = self._way.device_for(device)
        weights = WeightStream(student.hub_shapes(types), lambda: student.hub_tensors(types, sent))
        self._session = TransferSession(self._way, self.pool.keeper, weights)
        size = sum(part.nbytes for part in weights.shapes.values())
        log.info(f"Weights ({gigabytes(size)}) are sent to the rollout servers over {self._way.name}")
        return run_id or secrets.token_hex(4), types

    def _send_once(self, trainer: Trainer, student: Any, version: str, device: torch.device, seconds: float) -> bool:
        """Send the weights once; False where that must be done again."""
        session = self._session

        def assemble() -> None:
            assert session is not None
            session.assemble(min(seconds, self.pool.keeper.retry_seconds))

        def send() -> bool:
            assert session is not None
            return session.send(version)

        of_rank_zero(trainer, assemble)
        if student.sharded and not trainer.is_global_zero:
            for _ in student.hub_tensors(self._types, self._way.device_for(device)):
                pass  # rank 0 gets them
        return of_rank_zero(trainer, send)
