"""Low-rank adapters on the parts of a student that are to be trained, and on no others."""

from dataclasses import dataclass
from typing import Any

from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

from lightning_modules.models.architectures.architecture import Architecture
from lightning_modules.models.checkpoints.checkpoint_folder import WeightsError
from lightning_modules.models.merged_lora import MergedLoRALinear


@dataclass
class LoRASettings:
    """Low-rank adapters (peft).

    Attributes:
        rank: Rank of the update.
        alpha: Scale; the update is multiplied by alpha / rank.
        dropout: Dropout before the adapters.
        target_modules: Regular expression on module names, or a list of name endings; by default all linear layers
            of the language model, so the audio tower stays as it is. A list such as ``[q_proj, v_proj]`` means the
            audio tower's layers too, unless the student is loaded with ``freeze_audio_tower``.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    target_modules: str | list[str] | None = None


def with_adapters(
    model: Any, architecture: Architecture, settings: LoRASettings, freeze_audio_tower: bool, weights: str
) -> Any:
    """Return the model with adapters as its only trained weights.

    Args:
        model: The transformers model.
        architecture: Its architecture.
        settings: Where the adapters go.
        freeze_audio_tower: Put none into the audio tower and the projector.
        weights: Where the model came from, for messages.

    Raises:
        WeightsError: There is nothing to put adapters on.
    """
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules or architecture.language_model_linears,
    )
    # peft's registry of layers; a public one is missing (get_peft_model takes none)
    config._register_custom_module({nn.Linear: MergedLoRALinear})
    found = [name for name, _ in model.named_modules() if check_target_module_exists(config, name)]
    kept_out = [name for name in found if _is_kept(model, architecture, name, freeze_audio_tower)]
    if found and len(kept_out) == len(found):
        raise WeightsError(
            f"lora.target_modules matches only parts of {weights} that are not trained, such as {found[0]}: "
            "name layers of the language model" + (" or set freeze_audio_tower to false" if freeze_audio_tower else "")
        )
    config.exclude_modules = kept_out or None
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise WeightsError(f"lora.target_modules matches no module of {weights}: {error}") from error
    _begin_adapters(adapted)
    return adapted


def _begin_adapters(model: nn.Module) -> None:
    """Give adapters their first values where peft took their storage, as it does on a model without weights."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            parts = [getattr(layer, name) for name in layer.adapter_layer_names]
            if any(p.is_meta for part in parts for p in part.parameters()):
                for part in parts:
                    part.to_empty(device="cpu")
                for adapter in layer.active_adapters:
                    layer.reset_lora_parameters(adapter, True)


def _is_kept(model: Any, architecture: Architecture, name: str, freeze_audio_tower: bool) -> bool:
    """Return whether a module is to stay as it is: the audio path where it is frozen, and what is never used."""
    module = model.get_submodule(name)
    if freeze_audio_tower and any(
        module is part for path in architecture.audio_modules(model).values() for part in path.modules()
    ):
        return True
    unused = {id(p) for p in architecture.unused(model)}
    own = [id(p) for p in module.parameters()]
    return bool(own) and unused.issuperset(own)
