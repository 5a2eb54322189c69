"""The weights of a checkpoint on disk as a Hugging Face directory, one tensor at a time."""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lightning_modules.audio_qa import StudentModule
from lightning_modules.models import frozen_weights
from lightning_modules.models.checkpoints.deferred_weights import TensorPlace
from lightning_modules.models.checkpoints.sharded_checkpoint import (
    CheckpointError,
    ShardedCheckpoint,
    is_sharded_checkpoint,
)
from lightning_modules.models.student import Student


def export_checkpoint(make: Callable[[bool], Any], in_bfloat16: bool, path: Path, directory: Path) -> None:
    """Write the directory that a run would have exported at a checkpoint; no more than one weight is in memory.

    Args:
        make: Makes the run's module without weights (``loading(deferred=True)``), the types of frozen ones as they are
            with ``frozen_in_bfloat16`` set to its argument.
        in_bfloat16: The argument that the run is likely to have had; where the frozen weights are not those of the
            checkpoint then, it was the other one.
        path: The checkpoint, of one file or of many.
        directory: Where to; it appears complete or not at all.

    Raises:
        CheckpointError: It cannot be read, or is none of such a module.
        UserError: It was written beside other frozen weights, or there is no room for the directory.
    """
    plain, read_trained, names = _open(path)
    places: dict[str, TensorPlace] = {}

    def read(name: str) -> Tensor:
        if name in names:
            return read_trained(name)
        with safe_open(places[name].file, "pt") as content:
            return content.get_tensor(places[name].name)  # type: ignore[no-any-return]

    for low in (in_bfloat16, not in_bfloat16):
        module = make(low)
        if not isinstance(module, StudentModule):
            raise CheckpointError(f"{type(module).__name__} has no student that could be exported")
        places |= _places(module)
        module._frozen = frozen_weights.fingerprint(module, read)
        if not frozen_weights.differ(dict(plain), module._frozen):
            break
    module.on_load_checkpoint({**plain, "state_dict": dict.fromkeys(names)})
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name in names and not weight.is_meta:  # adapters: the rest is read when it is written
                weight.copy_(read_trained(name))
    student = module.student
    prefix = next(name for name, part in module.named_modules() if part is student.base) + "."
    notes = {"module": type(module).__qualname__, "step": plain.get("global_step"), "checkpoint": str(path)}
    student.save_pretrained(
        directory, {"training.json": json.dumps(notes, indent=2) + "\n"}, lambda name: read(prefix + name)
    )


def _open(path: Path) -> tuple[Mapping[str, Any], Callable[[str], Tensor], set[str]]:
    """Return what a checkpoint holds beside weights, how a weight is read, and the weights' names."""
    if is_sharded_checkpoint(path):
        checkpoint = ShardedCheckpoint(path)
        return checkpoint.plain, checkpoint.weight, set(checkpoint.weights())
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        weights = values.pop("state_dict")
    except Exception as error:  # a damaged file may raise anything
        raise CheckpointError(f"checkpoint {path} cannot be read ({str(error).splitlines()[0][:200]})") from error
    return values, weights.__getitem__, set(weights)


def _places(module: StudentModule) -> dict[str, TensorPlace]:
    """Return where each weight that has not been read is, by its name in the module."""
    places = {}
    for prefix, part in module.named_modules():
        if isinstance(part, Student) and part._unread is not None:
            inner = next(name for name, inside in part.named_modules() if inside is part.base)
            for name, _ in part.base.named_parameters():
                with contextlib.suppress(KeyError):  # adapters are of no file, and tied weights of another name
                    places[f"{prefix}.{inner}.{name}"] = part._unread[name.replace(".base_layer.", ".")]
    return places
