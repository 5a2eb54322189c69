"""What transformers keeps to itself and every student needs: here, and in no other place.

``tests/test_foreign_internals.py`` fails when an upgrade moves it. The forward passes of the two audio encoders are in
``qwen2_audio.py`` and ``qwen2_5_omni.py``: transformers' own read lengths from the device, and that of Qwen2-Audio
computes 30 s of every clip.
"""

from typing import Any


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
