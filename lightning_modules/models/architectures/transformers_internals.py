"""What transformers keeps to itself and every student needs: here, and in no other place.

``tests/test_foreign_internals.py`` fails when an upgrade moves it. The forward passes of the two audio encoders are in
``qwen2_audio.py`` and ``qwen2_5_omni.py``: transformers' own read lengths from the device, and that of Qwen2-Audio
computes 30 s of every clip.
"""

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers.models.qwen2 import modeling_qwen2

from lightning_modules.models.architectures import fused_elementwise as fused


def new_model(model_class: Any, config: Any, **settings: Any) -> Any:
    """Make a model of a configuration, with values as they come.

    In public only the Auto classes have a ``from_config``, and none of them knows all classes that are needed here.

    Args:
        model_class: Its class.
        config: The configuration.
        **settings: ``dtype`` and ``attn_implementation``.
    """
    return model_class._from_config(config, **settings)


def attention_of(module: Any) -> str:
    """Return the name of the attention that a part of a model has; ``set_attn_implementation`` has no counterpart.

    Args:
        module: A model of transformers.
    """
    return str(module.config._attn_implementation)


def set_attention(module: Any, name: str) -> None:
    """Give a part of a model another attention, one that is registered with transformers.

    Args:
        module: A model of transformers.
        name: The attention's name.

    Raises:
        ValueError: It has kept its own: transformers only warns where it cannot tell whether a class takes others.
    """
    module.set_attn_implementation(name)
    if attention_of(module) != name:
        raise ValueError(f"{type(module).__name__} keeps its attention {attention_of(module)!r} in place of {name!r}")


def fuse(language_model: nn.Module) -> None:
    """Let norms, gates and rotations of a language model be computed in one pass each on a GPU.

    transformers' own way to exchange them, ``use_kernel_forward_from_hub``, needs the package ``kernels``, which
    fetches them from the Hub at run time. What is known is exchanged, everything else stays as it is.

    Args:
        language_model: Its layers are decoder layers of Qwen2.
    """
    for module in language_model.modules():
        kind: Any = type(module)
        if kind.__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.__class__ = _fused(kind, _norm)
        elif kind.__name__ == "Qwen2MLP" and type(module.act_fn).__name__ in ("SiLU", "SiLUActivation"):
            module.__class__ = _fused(kind, _gated_mlp)
    if not isinstance(modeling_qwen2.apply_rotary_pos_emb, functools.partial):
        modeling_qwen2.apply_rotary_pos_emb = functools.partial(_rotary, modeling_qwen2.apply_rotary_pos_emb)


@functools.cache
def _fused(kind: Any, on_gpu: Callable[[Any, Tensor], Tensor]) -> Any:
    """Return a class of modules that compute in another way on a GPU; it has the name of its base.

    A method of the module's own would refer to it in a circle, and a model that is let go of would keep its memory.
    """

    def forward(self: Any, x: Tensor) -> Any:
        return on_gpu(self, x) if fused.on_gpu(x) else kind.forward(self, x)

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def _norm(module: Any, x: Tensor) -> Tensor:
    return fused.rms_norm(module, x)


def _gated_mlp(module: Any, x: Tensor) -> Tensor:
    down: Tensor = module.down_proj(fused.gated(module.gate_proj(x), module.up_proj(x)))
    return down


def _rotary(own: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
    if not fused.on_gpu(q):
        return own(q, k, cos, sin, unsqueeze_dim)
    return fused.rotated(q, k, cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim))
