"""Weights spread over ranks (FSDP2): what is gathered together, in which type, and when gradients are summed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import new_subgroups_by_enumeration
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from lightning_modules.models.token_logprobs import head_logprobs
from lightning_modules.models.weight_types import AUTO
from runtime.errors import UserError

REDUCTIONS = (AUTO, "each", "last")

_SCORES = "token_logprobs"
"""Method that a head which is gathered by itself is given: as a forward method of it, its weights are whole inside."""


@dataclass(frozen=True)
class ShardingSettings:
    """How weights are spread over the ranks, where ``trainer.strategy`` is ModelParallelStrategy.

    Attributes:
        param_dtype: Type that weights are gathered and computed with in: float32, bfloat16, float16 or auto. With auto
            it is bfloat16 in a stage of ``train.py`` on a GPU with ``trainer.precision`` bf16-mixed, and that of the
            weights elsewhere. Trained weights are kept in their own type, and gradients summed over the ranks in
            float32, whatever it is.
        reduce_gradients: When gradients are summed over the ranks: after each micro-batch, or after a batch's last one.
            The latter spares sending them, and keeps those of the whole model on each rank, 4 bytes for each trained
            weight. With auto it is last for adapters and each for whole weights.
        replicas: Copies of the weights, which divide the number of ranks: each copy is shared by neighbouring ranks,
            and gradients are summed over the copies. As many as there are nodes keeps the gathering within nodes, and
            takes on each rank the memory that one node alone would take.
    """

    param_dtype: str = AUTO
    reduce_gradients: str = AUTO
    replicas: int = 1

    def __post_init__(self) -> None:
        if self.reduce_gradients not in REDUCTIONS:
            raise UserError(
                f"model.sharding.reduce_gradients {self.reduce_gradients!r} is unknown: use {', '.join(REDUCTIONS)}"
            )

    def keeps_gradients(self, adapters: bool) -> bool:
        """Return whether a batch's gradients are summed over the ranks once.

        Args:
            adapters: Whether the trained weights are adapters.
        """
        return self.reduce_gradients == "last" or (self.reduce_gradients == AUTO and adapters)


def copies_of(mesh: DeviceMesh, replicas: int, timeout: timedelta | None = None) -> DeviceMesh:
    """Return the mesh over which weights are spread.

    Args:
        mesh: All ranks, in one dimension.
        replicas: Copies of the weights.
        timeout: How long ranks wait for each other, torch's own limit unless given. One copy's ranks are all ranks,
            which wait as long as the strategy has said.

    Returns:
        The same mesh for one copy, else ``(copies, ranks of each)``.

    Raises:
        UserError: The ranks cannot be divided so.
    """
    if replicas < 1 or mesh.size() % replicas:
        raise UserError(f"model.sharding.replicas is {replicas}: it must divide the number of ranks, {mesh.size()}")
    return mesh if replicas == 1 else mesh_of_copies(mesh, replicas, timeout)


def mesh_of_copies(mesh: DeviceMesh, replicas: int, timeout: timedelta | None) -> DeviceMesh:
    """Return ``(copies, ranks of each)``; ``init_device_mesh`` would take torch's limits for their groups.

    Args:
        mesh: All ranks, in one dimension.
        replicas: Copies of the weights.
        timeout: How long ranks wait for each other.
    """
    ranks = mesh.mesh.view(replicas, -1)
    groups = [new_subgroups_by_enumeration(lines.tolist(), timeout)[0] for lines in (ranks.T, ranks)]
    return DeviceMesh.from_group(groups, mesh.device_type, ranks, mesh_dim_names=("copies", "shards"))


def spread_weights(
    root: nn.Module, layers: Sequence[nn.Module], embedding: nn.Module, head: nn.Module, mesh: DeviceMesh, dtype: Any
) -> bool:
    """Spread a model's weights over ranks; layers, embedding and head are each gathered for as long as they compute.

    Where embedding and head are one tensor they stay gathered from the first use to the last, like the few weights
    that are in none of the parts.

    Args:
        root: What holds all parts.
        layers: Its layers.
        embedding: Its token embeddings.
        head: What maps hidden states to logits.
        mesh: The ranks, in one dimension; or copies and the ranks of each.
        dtype: Type that weights are gathered in, None for their own.

    Returns:
        Whether the head is gathered by itself, so that its weights are to be used by :func:`score` alone.
    """
    # inputs need no casting: embeddings and audio come in the type of the weights, and so does all that follows
    policy = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
    shared = {id(p) for p in embedding.parameters()} & {id(p) for p in head.parameters()}
    plain = type(embedding) is nn.Embedding
    for part in [*layers, *(() if shared else (embedding, head))]:
        fully_shard(part, mesh=mesh, mp_policy=policy)
    fully_shard(root, mesh=mesh, mp_policy=policy)
    if shared:
        return False
    if plain:  # without adapters its gradient needs no weights
        embedding.set_unshard_in_backward(False)  # type: ignore[operator]
    setattr(head, _SCORES, partial(head_logprobs, head))
    register_fsdp_forward_method(head, _SCORES)
    return True


def shard_again(root: nn.Module) -> None:
    """Give back what is still gathered, so that each rank's weights are its own part alone.

    A forward pass without a backward one leaves some gathered, and would go on with them whatever became of the parts.

    Args:
        root: The model; one that is not sharded stays as it is.
    """
    for part in root.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def score(head: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
    """Return what :func:`head_logprobs` does, with the head's weights whole meanwhile.

    Args:
        head: A head that is gathered by itself.
        *arguments: Those of :func:`head_logprobs` after the head.
    """
    scored: tuple[Tensor, Tensor] = getattr(head, _SCORES)(*arguments)
    return scored
