"""Qwen2-Audio: where its parts are, how it hears, and what its weights are called on the Hugging Face Hub.

vLLM and every published checkpoint use the Hub's names; ``save_pretrained`` of transformers 5 does not write them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import Qwen2AudioForConditionalGeneration
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder, Qwen2AudioMultiModalProjector

from datamodules.batching.front_end import FrontEnd
from datamodules.batching.whisper_front_end import WhisperFrontEnd
from lightning_modules.models.architectures.transformers_internals import new_model
from lightning_modules.models.architectures.whisper_encoding import encode_signals, without_padding

LANGUAGE_MODEL_LINEARS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

_PREFIXES = {
    "model.language_model.": "language_model.model.",
    "model.audio_tower.": "audio_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}


class Qwen2Audio:
    """The architecture of Qwen2-Audio; what the parts mean says :class:`.architecture.Architecture`."""

    name = "Qwen2-Audio"
    model_class: Any = Qwen2AudioForConditionalGeneration
    language_model_linears = LANGUAGE_MODEL_LINEARS
    ignored_prefixes: tuple[str, ...] = ()
    front_end: FrontEnd = WhisperFrontEnd()

    def language_model(self, model: Any) -> Any:
        """Return what is between embeddings and head."""
        return model.model.language_model

    def no_mask(self, embedded: Tensor) -> Any:
        """Return Qwen2's masks by kind of layer."""
        return {"full_attention": None}

    def audio_modules(self, model: Any) -> dict[str, nn.Module]:
        """Return the tower and the projector."""
        return {
            "audio_tower": model.model.audio_tower,
            "multi_modal_projector": model.model.multi_modal_projector,
        }

    def new_audio_modules(self, config: Any) -> dict[str, nn.Module]:
        """Return a tower and a projector without weights."""
        return {
            "audio_tower": new_model(Qwen2AudioEncoder, config.audio_config, attn_implementation="sdpa"),
            "multi_modal_projector": Qwen2AudioMultiModalProjector(config),
        }

    def unused(self, model: Any) -> list[nn.Parameter]:
        """Return nothing: all weights take part."""
        return []

    def layers(self, model: Any) -> list[nn.Module]:
        """Return the layers of tower and language model."""
        return [*model.model.audio_tower.layers, *model.model.language_model.layers]

    def text_config(self, config: Any) -> Any:
        """Return the language model's configuration."""
        return config.text_config

    def audio_token_id(self, config: Any) -> int:
        """Return the token id of the audio placeholder."""
        return int(config.audio_token_id)

    def mel_bins(self, config: Any) -> int:
        """Return how many mel bins a frame has."""
        return int(config.audio_config.num_mel_bins)

    def encode_audio(self, parts: Mapping[str, Any], features: Tensor, feature_lengths: np.ndarray) -> Tensor:
        """Encode clips into the language model's embedding space, as long as they are heard.

        Args:
            parts: Tower and projector.
            features: Log-mel features ``[B, M, F]``, as :func:`.whisper_encoding.encode_signals` takes them.
            feature_lengths: Heard mel frames ``[B]``.

        Returns:
            The embeddings of all clips' audio tokens, one clip after the other ``[sum of tokens, H]``.
        """
        hidden = encode_signals(parts["audio_tower"], features, feature_lengths)
        return without_padding(parts["multi_modal_projector"](hidden), feature_lengths)

    def hub_weights(self, name: str, value: Tensor) -> dict[str, Tensor]:
        """Return a weight under its name on the Hub.

        Raises:
            KeyError: The name belongs to no known part of the model.
        """
        for ours, hub in _PREFIXES.items():
            if name.startswith(ours):
                return {hub + name.removeprefix(ours): value}
        raise KeyError(f"weight {name!r} has no name on the Hub: expected one of the prefixes {sorted(_PREFIXES)}")

    def hub_config(self, config: Any, tied: bool) -> Any:
        """Return the configuration that is exported with the weights; head and embeddings are never one here."""
        fields = config.to_dict()
        fields["architectures"] = ["Qwen2AudioForConditionalGeneration"]
        return config.from_dict(fields)
