"""Qwen2-Audio: where its parts are, how it hears, and what its weights are called on the Hugging Face Hub.

vLLM and every published checkpoint use the Hub's names; ``save_pretrained`` of transformers 5 does not write them.

The released encoder insists on 30 s of mel frames and masks what lies past the clip's end. Two frames past the end
are all that its convolutions can see from a heard position, so the rest need not be computed: the result is equal.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Qwen2AudioForConditionalGeneration
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder, Qwen2AudioMultiModalProjector

from datamodules.batching.audio_tokens import EDGE_FRAMES, audio_token_counts
from datamodules.batching.front_end import FrontEnd
from datamodules.batching.host_arrays import to_device
from datamodules.batching.whisper_front_end import WhisperFrontEnd
from lightning_modules.models.architectures.audio_encoding import attention_mask
from lightning_modules.models.architectures.transformers_internals import attention_of, new_model

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
            features: Log-mel features ``[B, M, F]``: each clip's heard frames and what follows in the zero-padded
                signal, for at least :data:`EDGE_FRAMES` frames or up to the encoder's limit.
            feature_lengths: Heard mel frames ``[B]``.

        Returns:
            The embeddings of all clips' audio tokens, one clip after the other ``[sum of tokens, H]``.
        """
        tower, projector = parts["audio_tower"], parts["multi_modal_projector"]
        positions, tokens = audio_token_counts(feature_lengths)
        longest = int(positions.max())
        limit = tower.max_source_positions
        if longest > limit:
            raise ValueError(f"a clip has {int(feature_lengths.max())} mel frames; the audio tower hears {2 * limit}")
        heard = int(feature_lengths.max())
        features = features[..., : min(heard + EDGE_FRAMES, 2 * limit)].to(tower.conv1.weight.dtype)
        hidden = nn.functional.gelu(tower.conv2(nn.functional.gelu(tower.conv1(features))))
        hidden = hidden.transpose(1, 2)[:, :longest] + tower.embed_positions.weight[:longest]
        hidden = nn.functional.dropout(hidden, p=tower.dropout, training=tower.training)
        mask = None
        if positions.min() < longest:
            seen = to_device(np.arange(longest) < positions[:, None], hidden.device)
            mask = attention_mask(seen, attention_of(tower), hidden.dtype)
        for layer in tower.layers:
            hidden = layer(hidden, mask)
        pooled = tower.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2)
        embeddings = projector(tower.layer_norm(pooled))
        return torch.cat([clip[:count] for clip, count in zip(embeddings, tokens.tolist(), strict=True)])

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
