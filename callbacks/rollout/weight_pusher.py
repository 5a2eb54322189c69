"""Gives the rollout servers a student's weights, from all ranks together."""

import logging
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor

from inference.server_pool import ServerPool
from inference.vllm.pooled_server import PooledServer
from inference.vllm.server_claim import ServerClaim
from inference.weight_transfer.weight_directory import SHARED_MEMORY, CheckpointFolder, WeightDirectory, gigabytes, room
from inference.weight_transfer.weight_sync import (
    DTYPES,
    TensorSpec,
    WeightSyncError,
    check_weights,
    find_checkpoint,
    read_specs,
    sent_types,
)
from lightning_modules.served_qa import ServedStudent
from records.hub_files import HubTensor
from runtime.all_ranks import of_rank_zero
from runtime.lightning_internals import collective_timeout

log = logging.getLogger("lightning.pytorch.rollout")  # below Lightning's logger, so that it is seen

COLLECTIVE_SECONDS = 1800.0
RESERVED_SECONDS = 300.0
"""What remains of a collective's time limit for what follows a push."""


class WeightPusher:
    """Writes weights where all servers can read them, and has the servers load them.

    Attributes:
        version: Name of the weights that the servers have; None before the first push.
        together: Only all ranks together can give weights to a server that was started anew.
    """

    together = False

    def __init__(self, pool: ServerPool, sync_dir: str | None = None, server_checkpoint: str | None = None) -> None:
        """Describe the way.

        Args:
            pool: The servers.
            sync_dir: Directory through which weights travel; by default one that has room and all servers can read.
            server_checkpoint: Directory of the checkpoint that the servers were started with, where their own path of
                it does not exist on this machine.
        """
        self.pool = pool
        self.sync_dir = sync_dir
        self.server_checkpoint = server_checkpoint
        self.version: str | None = None
        self._directory: WeightDirectory | None = None
        self._claim = ServerClaim()
        self._types: dict[str, torch.dtype] | None = None

    def push(self, trainer: Trainer, student: Any, run_id: str | None) -> str:
        """Give all servers the student's present weights; a collective act, whose failure on rank 0 all ranks raise.

        Args:
            trainer: The trainer.
            student: The student.
            run_id: Name of the run; drawn when there is none yet.

        Returns:
            Name of the run.

        Raises:
            UserError: The weights do not fit, there is no way to a server, or a server refused them.
        """
        begun = time.monotonic()
        if isinstance(student, ServedStudent):
            return self._load(trainer, student, run_id)
        first = self._types is None
        if first:
            run_id = self._begin(trainer, student, run_id)
        version = f"{run_id}:{trainer.global_step}"
        if student.sharded and not trainer.is_global_zero:
            for _ in student.hub_tensors(self._types):
                pass  # rank 0 gets them
        of_rank_zero(trainer, lambda: self._send(trainer, student, version, first, begun))
        self.version = version
        if not trainer.is_global_zero:
            assert self._directory is not None
            self.pool.keeper.expect(self._directory, version)
        assert run_id is not None
        return run_id

    def close(self) -> None:
        """Delete what was written, and give the servers back."""
        self._claim.release()
        if self._directory is not None:
            self._directory.remove()
        self._directory = self._types = self.version = None

    def _load(self, trainer: Trainer, student: ServedStudent, run_id: str | None) -> str:
        """Have all servers load the student's checkpoint from where it is."""
        folder = CheckpointFolder(student.weights)

        def load() -> str:
            self._claim_all(trainer)
            name = run_id or secrets.token_hex(4)
            mine = _specs_of(student.weights, student) if folder.root.is_dir() else None
            for server in self.pool.servers:
                if mine is not None and server.info is not None:
                    shapes = {name: HubTensor(s.shape, DTYPES.get(s.dtype, torch.int64)) for name, s in mine.items()}
                    check_weights(shapes, self._specs(server, student), server.url)
            self.pool.keeper.expect(folder, f"{name}:{trainer.global_step}")
            limit = self.pool.keeper.retry_seconds + self.pool.keeper.request_seconds
            self.pool.keeper.push(force=True, seconds=push_seconds(limit, collective_seconds(trainer), 0.0))
            return name

        run_id = of_rank_zero(trainer, load)
        self.version = f"{run_id}:{trainer.global_step}"
        self.pool.keeper.expect(folder, self.version)
        return run_id

    def _begin(self, trainer: Trainer, student: Any, run_id: str | None) -> str:
        """Check whether the weights fit, and find a way to the servers."""
        name, types, root = of_rank_zero(trainer, lambda: self._prepare(trainer, student, run_id))
        self._types = types
        if not trainer.is_global_zero:
            self._directory = WeightDirectory(root)
        if not trainer.strategy.reduce_boolean_decision(Path(root).is_dir()):
            raise WeightSyncError(
                f"not all ranks see {root}, through which weights travel to the rollout servers: set sync_dir to a "
                "folder that all nodes reach under the same path"
            )
        return name

    def _prepare(self, trainer: Trainer, student: Any, run_id: str | None) -> tuple[str, dict[str, torch.dtype], str]:
        types = self._fitting_types(trainer, student)
        size = sum(tensor.nbytes for tensor in student.hub_shapes(types).values())
        self._directory = self._make_directory(Path(trainer.default_root_dir), size, trainer.num_nodes)
        return run_id or secrets.token_hex(4), types, str(self._directory.root)

    def _fitting_types(self, trainer: Trainer, student: Any) -> dict[str, torch.dtype]:
        """Make the servers this run's, refuse those with another model, and return in which types weights are sent."""
        self._claim_all(trainer)
        specs: dict[str, TensorSpec] = {}
        for server in self.pool.servers:
            specs = self._check(server, student) or specs
        self.pool.keeper.check = lambda server: self._check(server, student)
        return sent_types(specs, [server.info.dtype for server in self.pool.servers if server.info is not None])

    def _claim_all(self, trainer: Trainer) -> None:
        self._claim.release()
        for server in self.pool.servers:
            self._claim.take(server.url, f"with results in {Path(trainer.default_root_dir).absolute()}")

    def _check(self, server: PooledServer, student: Any) -> dict[str, TensorSpec]:
        """Refuse a server whose model is another one; return what its checkpoint holds."""
        if server.info is None:
            return {}
        specs = self._specs(server, student)
        check_weights(student.hub_shapes(), specs, server.url)
        return specs

    def _specs(self, server: PooledServer, student: Any) -> dict[str, TensorSpec]:
        assert server.info is not None
        return _specs_of(self.server_checkpoint or server.info.model, student)

    def _send(self, trainer: Trainer, student: Any, version: str, first: bool, begun: float) -> None:
        assert self._directory is not None
        shapes: dict[str, HubTensor] = student.hub_shapes(self._types)
        tensors: Iterator[tuple[str, Tensor]] = student.hub_tensors(self._types)
        try:
            self._directory.write(tensors, shapes, version)
        finally:
            if student.sharded:
                for _ in tensors:
                    pass  # after a failure the other ranks still wait for this one at each weight that is left
        self.pool.keeper.expect(self._directory, version)
        limit = push_seconds(
            self.pool.keeper.retry_seconds + self.pool.keeper.request_seconds,
            collective_seconds(trainer),
            time.monotonic() - begun,
        )
        self.pool.keeper.push(force=first, seconds=limit)

    def _make_directory(self, root: Path, size: int, nodes: int) -> WeightDirectory:
        """Make the directory of this run in the first place that has room and that all servers can read."""
        below = root.absolute() / "weight_sync"
        places = [SHARED_MEMORY, below] if nodes == 1 else [below]  # the other nodes have other main memories
        if self.sync_dir is not None:
            places = [Path(self.sync_dir).expanduser().absolute()]
        problems: list[str] = []
        for parent in places:
            found = self._try(parent, size)
            if isinstance(found, WeightDirectory):
                because = f", because {'; '.join(problems)}" if problems else ""
                log.info(f"Weights ({gigabytes(size)}) travel to the rollout servers through {parent}{because}")
                return found
            problems.append(found)
        raise WeightSyncError(
            f"weights cannot travel to the rollout servers: {'; '.join(problems)}. Set sync_dir to a folder with "
            f"{gigabytes(size)} of room that trainer and servers reach under the same path"
        )

    def _try(self, parent: Path, size: int) -> WeightDirectory | str:
        """Return a directory in ``parent``, or why there can be none."""
        if parent == SHARED_MEMORY and not parent.is_dir():
            return f"there is no {parent}"
        try:
            directory = WeightDirectory.make(parent)
        except OSError as error:
            return f"{parent} cannot be written ({error.strerror or error})"
        try:
            if (free := room(parent)) < size:
                problem = f"{parent} has room for {gigabytes(free)}, and the weights take {gigabytes(size)}"
                if parent == SHARED_MEMORY:
                    problem += " (containers get more with --shm-size)"
            else:
                directory.write_probe()
                problem = self.pool.keeper.cannot_read(directory) or ""
        except OSError as error:
            problem = f"{parent} cannot be written ({error.strerror or error})"
        except BaseException:
            directory.remove()
            raise
        if problem:
            directory.remove()
            return problem
        return directory


def _specs_of(checkpoint: str, student: Any) -> dict[str, TensorSpec]:
    """Return what a checkpoint holds of a student."""
    specs = read_specs(find_checkpoint(checkpoint))
    return {name: spec for name, spec in specs.items() if not name.startswith(student.architecture.ignored_prefixes)}


def push_seconds(wanted: float, collective: float, spent: float) -> float:
    """Return how long a push may take, so that ranks which wait for it do not run into their time limit.

    Args:
        wanted: How long it might take by the limits for servers.
        collective: How long a rank waits for the others; infinite where there are none.
        spent: Seconds that they have been waiting already.
    """
    return max(1.0, min(wanted, collective - RESERVED_SECONDS - spent))


def collective_seconds(trainer: Trainer) -> float:
    """Return how long ranks wait for each other before they give up."""
    if trainer.world_size == 1:
        return float("inf")
    limit = collective_timeout(trainer)
    return limit.total_seconds() if limit is not None else COLLECTIVE_SECONDS
