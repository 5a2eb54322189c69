"""``ModelParallelStrategy`` whose checkpoints are never torn, never gathered and read on any number of ranks."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor
from torch.distributed.distributed_c10d import default_pg_timeout
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.optim import Optimizer
from typing_extensions import override

from callbacks.checkpoints.folder_writer import FolderWriter
from lightning_modules.eight_bit_moments import KeepsEightBits, plain_values
from lightning_modules.models.checkpoints.sharded_checkpoint import (
    WEIGHT,
    CheckpointError,
    Moment,
    ShardedCheckpoint,
    is_sharded_checkpoint,
    moment_name,
)


class ShardedStrategy(ModelParallelStrategy):
    """Takes the place of Lightning's class in a stage of ``train.py``; its arguments are the same.

    Weights and moments go from each rank to its own file and back, a tensor at a time. Lightning's class copies them to
    main memory first, reads what strangers may have written by ``pickle``, and takes the moments of a checkpoint that
    an unsharded run has written for those of other weights where an optimizer has several groups.
    """

    _opened: ShardedCheckpoint | None = None

    @classmethod
    def of(cls, strategy: ModelParallelStrategy) -> "ShardedStrategy":
        """Return a strategy with the settings of Lightning's.

        Args:
            strategy: Lightning's, not yet in use.
        """
        return cls(
            strategy._data_parallel_size,
            strategy._tensor_parallel_size,
            strategy._save_distributed_checkpoint,
            strategy._process_group_backend,
            strategy._timeout,
        )

    @cached_property
    def writer(self) -> FolderWriter:
        """What writes checkpoints of many files, one after the other."""
        return FolderWriter(self.root_device, self._timeout or default_pg_timeout)

    @property
    @override
    def lightning_restore_optimizer(self) -> bool:
        return True

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        if not self._save_distributed_checkpoint:
            return super().lightning_module_state_dict()
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    @override
    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        if not self._save_distributed_checkpoint:
            return super().optimizer_state(optimizer)
        names = self._names()
        optimizer = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return {
            "state": {names[id(weight)]: state for weight, state in optimizer.state.items()},
            "param_groups": [g | {"params": [names[id(p)] for p in g["params"]]} for g in optimizer.param_groups],
        }

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        if self._save_distributed_checkpoint:
            self.save(checkpoint, Path(self.broadcast(filepath)), background=False)
        else:
            Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)  # by the checkpoint's IO, on rank 0

    def save(self, checkpoint: dict[str, Any], path: Path, background: bool) -> None:
        """Write a checkpoint of many files; all ranks call it together.

        Args:
            checkpoint: What the trainer has dumped.
            path: Its place.
            background: Return as soon as there is a copy, and write that.

        Raises:
            CheckpointError: This one, or the one before, could not be written.
        """
        tensors = {WEIGHT + name: value for name, value in checkpoint["state_dict"].items()}
        plain = {key: value for key, value in checkpoint.items() if key != "state_dict"}
        for number, state in enumerate(checkpoint.get("optimizer_states", [])):
            for weight, moments in state["state"].items():
                tensors |= {moment_name(number, Moment(weight, kind)): value for kind, value in moments.items()}
        if "optimizer_states" in plain:
            plain["optimizer_states"] = [{"param_groups": s["param_groups"]} for s in plain["optimizer_states"]]
        self.writer.write(tensors, plain, path, background)

    @override
    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(self.broadcast(checkpoint_path))
        if not path.is_dir():
            self._opened = None
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # type: ignore[no-any-return]
            except (RuntimeError, EOFError, ValueError, OSError) as error:
                raise CheckpointError(f"checkpoint {path} cannot be read ({str(error)[:200]})") from error
        if not is_sharded_checkpoint(path):
            raise CheckpointError(f"{path} is no checkpoint: {', '.join(sorted(p.name for p in path.iterdir())[:5])}")
        self._opened = ShardedCheckpoint(path)
        return dict(self._opened.plain) | {"state_dict": self._opened.weights()}

    @override
    @torch.no_grad()
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        found = checkpoint["state_dict"]
        own = self.lightning_module.state_dict()
        if strict and own.keys() != found.keys():
            raise CheckpointError(f"the checkpoint does not fit this model: {sorted(own.keys() ^ found.keys())[:3]}")
        own = {name: value for name, value in own.items() if name in found}
        if self._opened is not None:
            self._opened.read({WEIGHT + name: value for name, value in own.items()})
        else:
            for name, value in own.items():
                _copy_own_part(value, found[name], name)

    @override
    @torch.no_grad()
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        names = self._names()
        for number, optimizer in enumerate(self.optimizers):
            groups = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
            weights = {names[id(p)]: p for group in optimizer.param_groups for p in group["params"]}
            saved = checkpoint["optimizer_states"][number]
            if [len(group["params"]) for group in saved["param_groups"]] != [len(group) for group in groups]:
                raise CheckpointError("the checkpoint's optimizer has other groups of weights than the present one")
            if self._opened is not None:
                moments = self._opened.moments(number)
            else:
                name_of = {
                    key: name
                    for group, then in zip(groups, saved["param_groups"], strict=True)
                    for name, key in zip(group, then["params"], strict=True)
                }
                moments = {
                    Moment(name_of[key], kind): value
                    for key, kept in saved["state"].items()
                    for kind, value in kept.items()
                }
            own: dict[Moment, Tensor] = {}
            for part in [[moment] for moment in moments] if isinstance(optimizer, KeepsEightBits) else [list(moments)]:
                own |= {moment: _room_for(moments[moment], weights[moment.weight]) for moment in part}
                if self._opened is not None:
                    self._opened.read({moment_name(number, moment): own[moment] for moment in part})
                for moment in part if self._opened is None else ():
                    _copy_own_part(own[moment], moments[moment], f"{moment.kind} of {moment.weight}")
                if isinstance(optimizer, KeepsEightBits):  # never all of them in float32
                    own |= {moment: optimizer.kept(weights[moment.weight], moment.kind, own[moment]) for moment in part}
            place = {name: index for index, name in enumerate(weights)}
            state: dict[int, dict[str, Tensor]] = {}
            for moment, value in own.items():
                state.setdefault(place[moment.weight], {})[moment.kind] = value
            optimizer.load_state_dict(
                {
                    "state": state,
                    "param_groups": [
                        then | {"params": [place[name] for name in group]}
                        for group, then in zip(groups, saved["param_groups"], strict=True)
                    ],
                }
            )

    def _names(self) -> dict[int, str]:
        """Return the name of each weight by its identity; the module is brought into the state of rest for it."""
        assert self.lightning_module is not None
        self.lightning_module.state_dict()  # puts gathered weights away, whose place they would have
        return {id(weight): name for name, weight in self.lightning_module.named_parameters()}


def _room_for(saved: Tensor, weight: Tensor) -> Tensor:
    """Return an empty tensor for a moment: spread like its weight where it has its shape, whole otherwise."""
    if saved.shape == weight.shape and saved.ndim:
        return torch.empty_like(weight, dtype=saved.dtype, requires_grad=False)
    return torch.empty(saved.shape, dtype=saved.dtype)


def _copy_own_part(own: Tensor, whole: Tensor, name: str) -> None:
    """Copy what of a whole tensor is this rank's."""
    if own.shape != whole.shape:
        raise CheckpointError(
            f"the checkpoint does not fit this model: {name} has shape {list(whole.shape)}, not {list(own.shape)}"
        )
    whole = plain_values(whole)
    if not isinstance(own, DTensor):
        own.copy_(whole)
        return
    shape, begins = compute_local_shape_and_global_offset(own.shape, own.device_mesh, own.placements)
    own.to_local().copy_(whole[tuple(slice(at, at + size) for at, size in zip(begins, shape, strict=True))])
