"""A training step without values: the configured module in Lightning's own trainer, watched."""

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.strategies.model_parallel import _setup_device_mesh
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import model_parallel
from torch import Tensor, distributed, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.testing._internal.distributed.fake_pg import FakeStore

from lightning_modules.models import frozen_weights, token_logprobs
from lightning_modules.models.checkpoints.shapes_only import shapes_only
from lightning_modules.models.weight_types import frozen_in_bfloat16
from planning.alike import decided_once
from planning.collectives import Collectives
from planning.memory import Account, Peak, resizing_seen
from planning.operations import Onlooker

SHAPES_OF_WHOLES = "_propagate_tensor_meta_non_cached"
"""Method by which torch finds out shapes of whole tensors that ranks share: it computes with them, without values."""
WHOLES = getattr(ShardingPropagator, SHAPES_OF_WHOLES)
SHARDINGS = "propagate_op_sharding_non_cached"
"""Method by which torch finds out how the results of an operation are shared."""

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
            on_gpu: Whether it is planned for a GPU, where AdamW takes all weights at once.
        """
        self.account = account
        self.on_gpu = on_gpu
        self.parameters = (0, 0, 0)
        self.weights = self.exported = self.trained = self.state = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the optimizer its state and say what is what."""
        student: Any = pl_module.student
        reference: Any = getattr(pl_module, "reference", None)
        optimizer = trainer.optimizers[0]
        trained = [p for _, p in student.trainable_parameters()]
        for group in optimizer.param_groups:
            group["foreach"] = self.on_gpu or None
        for p in trained:
            p.grad = torch.zeros_like(p)
        optimizer.step()
        optimizer.zero_grad()
        states = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        self.account.label([*student.parameters(), *student.buffers()], "weights")
        if reference is not None:
            self.account.label([*reference.parameters(), *reference.buffers()], "reference")
        self.account.label(states, "optimizer state")
        sizes = [sum(p.numel() for p in part) for part in (student.parameters(), trained)]
        beside = sum(p.numel() for p in reference.parameters()) if reference is not None else 0
        self.parameters = (sizes[0], sizes[1], beside)
        self.weights = sum(part.nbytes for part in student.hub_shapes(torch.bfloat16 if self.on_gpu else None).values())
        self.exported = sum(part.nbytes for part in student.hub_shapes().values())
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
def without_values(on_gpu: bool) -> Iterator[None]:
    """Let tensors have shapes alone; what would read them all is left out."""
    chunk = {"cpu": token_logprobs.LOGITS_AT_ONCE["cuda" if on_gpu else "cpu"]}
    with (
        mock.patch.dict(token_logprobs.LOGITS_AT_ONCE, chunk),
        mock.patch.object(frozen_weights, "fingerprint", lambda module: "planned"),
        mock.patch.object(nn.Module, "_apply", apply_in_place),
        mock.patch.object(model_parallel, "_setup_device_mesh", with_values(_setup_device_mesh)),
        mock.patch.object(DeviceMesh, "__getitem__", with_values(DeviceMesh.__getitem__)),
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


def apply_in_place(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """What ``Module.to`` does, where a parameter without values cannot take the place of another.

    Args:
        module: The module.
        fn: Applied to each parameter and buffer.
        recurse: Go into its children.
    """
    for child in module.children() if recurse else ():
        child._apply(fn)
    for name, value in module._parameters.items():
        if value is not None:
            with torch.no_grad():
                applied = fn(value)
            if applied is not value:
                module._parameters[name] = nn.Parameter(applied, value.requires_grad)
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else fn(buffer)
    return module


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
        shapes_only(folder_of),
        frozen_in_bfloat16(low),
        without_values(on_gpu),
        resizing_seen(account),
        mock.patch.object(ShardingPropagator, SHAPES_OF_WHOLES, onlooker.not_seen(WHOLES)),
        mock.patch.object(ShardingPropagator, SHARDINGS, decided_once(getattr(ShardingPropagator, SHARDINGS))),
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
