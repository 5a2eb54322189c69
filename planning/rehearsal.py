"""A training step without values: the configured module in Lightning's own trainer, watched."""

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_modules import optimizers
from lightning_modules.grpo import GRPOModule
from lightning_modules.models import frozen_weights, sharding, student, token_logprobs
from lightning_modules.models.architectures import fused_elementwise
from lightning_modules.models.checkpoints.loading import loading
from lightning_modules.models.student import Student
from planning.alike import decided_once
from planning.collectives import Collectives
from planning.eight_bit import PlannedAdamW8bit
from planning.memory import ELSEWHERE, Account, Peak, resizing_seen
from planning.operations import Onlooker
from planning.torch_internals import (
    FakeStore,
    FakeTensorMode,
    apply_in_place,
    mesh_made_by,
    shardings_decided_by,
    unset_fake_temporarily,
    wholes_not_seen,
)

GPU_BLOCK = 512
"""Bytes that torch's allocator of GPU memory rounds up to."""


@dataclass(frozen=True)
class Rehearsed:
    """What a rank was seen to need.

    Attributes:
        peak: Of its memory.
        flops: Of a step, by phase.
        collectives: Of a step.
        reads: Values that were read from the device in a step.
        weights: Bytes of all weights as they are sent to a server.
        exported: Bytes of all weights as they are exported.
        parameters: Numbers of parameters of the student, those that are trained, and those of a reference beside it.
        trained: Bytes of the trained weights of all ranks.
        state: Bytes of the optimizer's state of all ranks.
    """

    peak: Peak
    flops: dict[str, int]
    collectives: Collectives
    reads: int
    weights: int
    exported: int
    parameters: tuple[int, int, int]
    trained: int
    state: int


class PlannedCluster(LightningEnvironment):
    """The first of N processes, none of which is started."""

    def __init__(self, ranks: int) -> None:
        """Say how many there would be.

        Args:
            ranks: N.
        """
        super().__init__()
        self._world_size = ranks

    @property
    def creates_processes_externally(self) -> bool:
        """Nobody is to start the others."""
        return True

    def world_size(self) -> int:
        """Return N."""
        return self._world_size

    def teardown(self) -> None:
        """Leave the environment alone."""


class Batches:
    """Hands out batches as they are."""

    def __init__(self, batches: list[Any]) -> None:
        """Keep them.

        Args:
            batches: The batches.
        """
        self._batches = batches

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        """Hand them out."""
        return iter(self._batches)


class Watch(Callback):
    """Tells the account what is under way, and begins where a long run would be: with an optimizer that has a state."""

    def __init__(self, account: Account, on_gpu: bool) -> None:
        """Watch a run.

        Args:
            account: Its memory.
            on_gpu: Whether it is planned for a GPU, where AdamW is fused.
        """
        self.account = account
        self.on_gpu = on_gpu
        self.parameters = (0, 0, 0)
        self.weights = self.exported = self.trained = self.state = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the optimizer its state and say what is what."""
        policy = cast(Student, pl_module.student)
        reference = pl_module.reference if isinstance(pl_module, GRPOModule) else None
        optimizer = trainer.optimizers[0]
        trained = [p for _, p in policy.trainable_parameters()]
        for group in optimizer.param_groups:
            group["fused"] = self.on_gpu or None
        for p in trained:
            p.grad = torch.zeros_like(p)
        optimizer.step()
        optimizer.zero_grad()
        states = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        self.account.label([*policy.parameters(), *policy.buffers()], "weights")
        if reference is not None:
            self.account.label([*reference.parameters(), *reference.buffers()], "reference")
        self.account.label(states, "optimizer state")
        sizes = [sum(p.numel() for p in part) for part in (policy.parameters(), trained)]
        beside = sum(p.numel() for p in reference.parameters()) if reference is not None else 0
        self.parameters = (sizes[0], sizes[1], beside)
        self.weights = sum(part.nbytes for part in policy.hub_shapes(torch.bfloat16 if self.on_gpu else None).values())
        self.exported = sum(part.nbytes for part in policy.hub_shapes().values())
        self.trained = sum(p.numel() * p.element_size() for p in trained)
        self.state = sum(v.numel() * v.element_size() for v in states)

    def on_train_batch_start(self, *_: Any) -> None:
        """A step begins."""
        self.account.begin("forward")

    def on_before_backward(self, *_: Any) -> None:
        """What is there now, the backward pass needs."""
        self.account.begin("backward")

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The gradients are known; another micro-batch may follow."""
        self.account.label([p.grad for p in pl_module.parameters() if p.grad is not None], "gradients")
        self.account.begin("forward")

    def on_before_optimizer_step(self, *_: Any) -> None:
        """The optimizer's turn."""
        self.account.begin("optimizer")


@contextlib.contextmanager
def first_of_ranks(ranks: int) -> Iterator[None]:
    """Be the first rank of a process group in which nothing is sent."""
    if ranks == 1 or distributed.is_initialized():
        yield
        return
    distributed.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Let Lightning keep to itself what it has to say about a run that is none."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


@contextlib.contextmanager
def without_values(on_gpu: bool, account: Account) -> Iterator[None]:
    """Let tensors have shapes alone; what would read them all is left out."""

    def kept_elsewhere(device: torch.device) -> contextlib.AbstractContextManager[object]:
        def keep(value: Tensor) -> Tensor:
            copy = value.clone()
            account.label([copy], ELSEWHERE)
            return copy

        return torch.autograd.graph.saved_tensors_hooks(keep, torch.clone)

    chunk = {"cpu": token_logprobs.LOGITS_AT_ONCE["cuda" if on_gpu else "cpu"]}
    with (
        mock.patch.dict(token_logprobs.LOGITS_AT_ONCE, chunk),
        mock.patch.object(fused_elementwise, "on_gpu", lambda x: on_gpu),
        mock.patch.object(frozen_weights, "fingerprint", lambda module: "planned"),
        mock.patch.object(nn.Module, "_apply", apply_in_place),
        mesh_made_by(with_values),
        mock.patch.object(DeviceMesh, "__getitem__", with_values(DeviceMesh.__getitem__)),
        mock.patch.object(sharding, "mesh_of_copies", with_values(sharding.mesh_of_copies)),
        mock.patch.object(student, "kept_in_main_memory", kept_elsewhere),
        mock.patch.object(optimizers, "eight_bit", lambda: PlannedAdamW8bit),
        mock.patch.object(LightningModule, "log", lambda *_, **__: None),
        mock.patch.object(LightningModule, "log_dict", lambda *_, **__: None),
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        yield


def with_values(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method compute with true values: who is whose neighbour is read from a tensor."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with unset_fake_temporarily():
            return method(*args, **kwargs)

    return run


def as_one_kernel(work: Callable[..., Any], onlooker: Onlooker) -> Callable[..., Any]:
    """Return a computation of which nothing but the result takes memory, as it is when it is compiled.

    Args:
        work: What is computed.
        onlooker: Sees the result.
    """
    inside = onlooker.not_seen(work)

    def run(*operands: Any) -> Any:
        result = inside(*operands)
        onlooker.account.see(result)
        return result

    return run


def rehearse(
    make: Callable[[], Any],
    trainer_for: Callable[[list[Any], list[Any]], Trainer],
    batch_for: Callable[[Any], Any],
    folder_of: Callable[[str], Path],
    ranks: int,
    on_gpu: bool,
    low: bool,
) -> Rehearsed:
    """Let a module take one optimizer step as rank 0 and watch it.

    Args:
        make: Makes the module.
        trainer_for: Makes the trainer, given callbacks and plugins.
        batch_for: Makes its batches, given the module.
        folder_of: Where the ``config.json`` of weights is.
        ranks: Ranks that share the weights; 1 where each has them whole.
        on_gpu: Whether a GPU is planned.
        low: Whether frozen weights are kept in bfloat16.
    """
    account = Account(GPU_BLOCK if on_gpu else 1)
    watch = Watch(account, on_gpu)
    onlooker = Onlooker(account)
    with (
        quietly(),
        first_of_ranks(ranks),
        loading(shapes_of=folder_of, frozen_in_bfloat16=low),
        without_values(on_gpu, account),
        resizing_seen(account),
        wholes_not_seen(onlooker.not_seen),
        shardings_decided_by(decided_once),
        mock.patch.object(fused_elementwise, "best", lambda work, _: as_one_kernel(work, onlooker)),
        onlooker,
    ):
        module = make()
        batches = batch_for(module)
        trainer = trainer_for([watch], [PlannedCluster(ranks)])
        trainer.fit(module, Batches(batches))
    flops = {phase: count for phase, count in onlooker.flops.items() if phase != "loading"}
    if math.isclose(sum(flops.values()), 0):
        raise RuntimeError("no step was taken")
    return Rehearsed(
        account.peak(),
        flops,
        onlooker.collectives,
        onlooker.reads,
        watch.weights,
        watch.exported,
        watch.parameters,
        watch.trained,
        watch.state,
    )
