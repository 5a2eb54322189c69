"""What differs between the architectures that a student may have: behind :class:`Architecture`, and nowhere else."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from datamodules.batching.front_end import FrontEnd
from lightning_modules.models.architectures.audio_flamingo import AudioFlamingo3
from lightning_modules.models.architectures.qwen2_5_omni import Qwen25Omni
from lightning_modules.models.architectures.qwen2_audio import Qwen2Audio


class Architecture(Protocol):
    """What a student must know of its architecture.

    Attributes:
        name: What people call it.
        model_class: Its class in transformers, with ``from_pretrained`` and an ``lm_head``.
        language_model_linears: Regular expression on the names of the language model's linear layers.
        ignored_prefixes: Prefixes of names in a released checkpoint that belong to parts which the student lacks.
        front_end: How its clips become mel frames and audio tokens.
    """

    name: str
    model_class: Any
    language_model_linears: str
    ignored_prefixes: tuple[str, ...]
    front_end: FrontEnd

    def language_model(self, model: Any) -> Any:
        """Return what is between embeddings and head; it takes plain positions and ``shared_prompt``."""

    def no_mask(self, embedded: Tensor) -> Any:
        """Return what the language model takes as its mask so that it makes none itself: the attention knows better."""

    def audio_modules(self, model: Any) -> dict[str, nn.Module]:
        """Return what turns features into embeddings, by name; the first is ``audio_tower``."""

    def new_audio_modules(self, config: Any) -> dict[str, nn.Module]:
        """Return such parts without weights, for a checkpoint's configuration."""

    def unused(self, model: Any) -> list[nn.Parameter]:
        """Return weights that audio and text never reach; they are not trained."""

    def layers(self, model: Any) -> list[nn.Module]:
        """Return the modules that are sharded each by itself."""

    def text_config(self, config: Any) -> Any:
        """Return the language model's part of a checkpoint's configuration."""

    def audio_token_id(self, config: Any) -> int:
        """Return the token id of the audio placeholder, given the model's configuration."""

    def mel_bins(self, config: Any) -> int:
        """Return how many mel bins a frame has, given a checkpoint's configuration."""

    def encode_audio(self, parts: Mapping[str, Any], features: Tensor, feature_lengths: np.ndarray) -> Tensor:
        """Return the embeddings of all clips' audio tokens ``[sum of tokens, H]``, given the audio path's parts."""

    def hub_weights(self, name: str, value: Tensor) -> dict[str, Tensor]:
        """Return what a weight in memory is on the Hub, as vLLM reads it too: one tensor or several, by name.

        They are ``value`` itself or views of it, so that shapes are known of a tensor without storage; KeyError where
        the name has none on the Hub.
        """

    def hub_config(self, config: Any, tied: bool) -> Any:
        """Return the configuration that belongs beside exported weights, given the model's.

        ``tied`` says that the head is not among the weights, because it is the token embeddings.
        """


ARCHITECTURES: dict[str, Architecture] = {
    "qwen2_audio": Qwen2Audio(),
    "qwen2_5_omni": Qwen25Omni(),
    "qwen2_5_omni_thinker": Qwen25Omni(),
    "audioflamingo3": AudioFlamingo3(),
}
"""By ``model_type`` of the configuration."""

_REFUSED = {
    "musicflamingo": "Music Flamingo and Audio Flamingo Next cannot be students: vLLM 0.32 does not serve them; choose "
    "Audio Flamingo 3, which has their size and language model",
}
"""What would be a student but for one reason, by ``model_type``."""


def architecture_of(config: Any) -> Architecture:
    """Return the architecture of a model or checkpoint with a configuration.

    Raises:
        ValueError: There is none.
    """
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None and config.model_type in _REFUSED:
        raise ValueError(_REFUSED[config.model_type])
    if architecture is None:
        known = sorted({known.name for known in ARCHITECTURES.values()})
        raise ValueError(
            f"it is a {config.model_type}, a student must be one of {', '.join(known[:-1])} and {known[-1]}"
        )
    return architecture
