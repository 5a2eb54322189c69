"""Models whose weights are read after they are spread over the ranks, each rank only its part.

Loading first and spreading then would hold the whole model in each rank's main memory: six ranks with policy and
reference of 8.4 B parameters in float32, 403 GB. Here a model is made without weights, and each rank reads its rows of
each tensor straight out of the safetensors files.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from transformers import GenerationConfig
from transformers.initialization import no_init_weights

from lightning_modules.models.architectures.architecture import Architecture
from lightning_modules.models.architectures.transformers_internals import new_model
from lightning_modules.models.checkpoints.checkpoint_folder import (
    WeightsError,
    checkpoint_folder,
    reason,
    refuse_misfits,
)


class TensorPlace(NamedTuple):
    """Where a tensor is.

    Attributes:
        file: Its file.
        name: Its name there.
        shape: Its shape.
    """

    file: Path
    name: str
    shape: tuple[int, ...]


def find_tensors(weights: str) -> dict[str, TensorPlace] | None:
    """Find the tensors of a checkpoint by the headers of its safetensors files.

    Args:
        weights: Hub name or directory.

    Returns:
        Places by name, or None where the checkpoint is not on this machine or has no such files.

    Raises:
        WeightsError: A file is damaged.
    """
    folder = checkpoint_folder(weights)
    found: dict[str, TensorPlace] = {}
    try:
        for file in sorted(folder.glob("*.safetensors")) if folder else []:
            with safe_open(file, "pt") as content:
                for name in content.keys():  # noqa: SIM118  (not a dictionary)
                    found[name] = TensorPlace(file, name, tuple(content.get_slice(name).get_shape()))
    except Exception as error:  # a damaged file may raise anything
        raise WeightsError(f"no weights could be read from {weights!r}: {reason(weights, error)}") from error
    return found or None


def model_without_weights(
    architecture: Architecture,
    weights: str,
    found: Mapping[str, TensorPlace],
    dtype: torch.dtype,
    attn_implementation: str,
) -> tuple[Any, dict[str, TensorPlace]]:
    """Make a model whose parameters have a shape, but no storage; buffers are as they should be.

    Args:
        architecture: Its architecture.
        weights: Hub name or directory.
        found: The checkpoint's tensors.
        dtype: Type of its weights.
        attn_implementation: Attention of its parts.

    Returns:
        The model, and the place of each of its weights by the name in memory.

    Raises:
        WeightsError: The checkpoint lacks something, has too much or another shape.
    """
    try:
        config = architecture.model_class.config_class.from_pretrained(weights)
        with no_init_weights(), _parameters_without_storage():
            model = new_model(architecture.model_class, config, dtype=dtype, attn_implementation=attn_implementation)
        config.name_or_path = weights
        model.requires_grad_(True)  # as from_pretrained leaves it
        model.tie_weights()
        try:
            model.generation_config = GenerationConfig.from_pretrained(weights)
        except OSError:  # a checkpoint may do without
            settings = {"config_file_name": "config.json", "_from_model_config": True}
            model.generation_config = GenerationConfig.from_pretrained(weights, **settings)
    except Exception as error:
        raise WeightsError(
            f"no {architecture.name} could be loaded from {weights!r}: {reason(weights, error)}"
        ) from error
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    places = _places(model, architecture, weights, found)
    missing = shapes.keys() - places.keys() - model.all_tied_weights_keys.keys()
    read = {place.name for place in places.values()}
    refuse_misfits(architecture, weights, "missing_keys", iter(missing))
    refuse_misfits(architecture, weights, "mismatched_keys", (n for n in places if places[n].shape != shapes[n]))
    refuse_misfits(architecture, weights, "unexpected_keys", (name for name in found if name not in read))
    return model, places


def _places(
    model: Any, architecture: Architecture, weights: str, found: Mapping[str, TensorPlace]
) -> dict[str, TensorPlace]:
    """Return where each weight of a model is, by its name there.

    Raises:
        WeightsError: A weight is several tensors of the checkpoint, which cannot be read row by row.
    """
    places = {}
    for name, value in model.state_dict().items():
        names = list(architecture.hub_weights(name, value))
        if len(names) > 1:
            raise WeightsError(
                f"weights of {architecture.name} cannot be read by each rank for itself: {name} is {len(names)} "
                f"tensors of {weights!r}; use a strategy in which each rank holds the whole model"
            )
        if place := found.get(names[0]) or found.get(name):
            places[name] = place
    return places


def read_weights(base: Any, places: Mapping[str, TensorPlace], device: torch.device) -> None:
    """Give a model its weights: whole, or this rank's rows where it is sharded.

    Args:
        base: The transformers model, sharded or not, adapters inside or not.
        places: Where its weights are, by their names without adapters.
        device: Where they are to be.
    """
    _give_storage(base, device)
    tied = base.all_tied_weights_keys
    if tied:
        base.tie_weights()
    with torch.no_grad(), contextlib.ExitStack() as files:
        opened: dict[Path, Any] = {}
        for name, value in base.state_dict().items():
            place = places.get(name.replace(".base_layer.", "."))
            if place is None or (name in tied and tied[name] in places):
                continue
            if place.file not in opened:
                opened[place.file] = files.enter_context(safe_open(place.file, "pt"))
            part = opened[place.file].get_slice(place.name)
            local = value.to_local() if isinstance(value, DTensor) else value
            if local.numel():
                local.copy_(part[own_rows(value)] if value.ndim else opened[place.file].get_tensor(place.name))


def _give_storage(model: nn.Module, device: torch.device) -> None:
    """Allocate what has no storage yet; what has some, such as adapters, stays as it is."""
    model._apply(lambda value: torch.empty_like(value, device=device) if value.device.type == "meta" else value)


def own_rows(value: Tensor) -> slice:
    """Return which rows of a weight are this rank's.

    Args:
        value: The weight, sharded or whole.
    """
    if not isinstance(value, DTensor):
        return slice(None)
    if value.placements[-1] != Shard(0) or any(not kind.is_replicate() for kind in value.placements[:-1]):
        raise ValueError(f"weights are sharded by rows over the last dimension of the mesh, found {value.placements}")
    ranks, rank = value.device_mesh.size(-1), value.device_mesh.get_local_rank(-1)
    rows = -(-value.shape[0] // ranks)
    return slice(min(rank * rows, value.shape[0]), min((rank + 1) * rows, value.shape[0]))


@contextlib.contextmanager
def _parameters_without_storage() -> Iterator[None]:
    """Let go of each parameter's storage as soon as it is made; nothing has been written to it by then."""
    register = nn.Module.register_parameter

    def without_storage(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None:
            param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        register(module, name, param)

    nn.Module.register_parameter = without_storage  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
