"""Qwen2.5-Omni's thinker: where its parts are, how it hears, and what its weights are called on the Hub.

A released checkpoint holds the thinker, which hears, sees and writes, and the talker with its vocoder, which speak.
Only the thinker is a student; the rest is never read. Its eyes stay as they are, so that an export is a whole thinker.

With audio and text alone, the three rows of its rotary positions are equal to plain positions, and its encoder hears
blocks of two seconds by themselves, so clips need no padding at all.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniThinkerForConditionalGeneration
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder

from datamodules.batching.audio_tokens import audio_token_counts
from datamodules.batching.front_end import FrontEnd
from datamodules.batching.host_arrays import to_device, to_device_together
from datamodules.batching.whisper_front_end import WhisperFrontEnd
from lightning_modules.models.architectures.transformers_internals import attention_of, new_model

_PARTS = ("model.", "lm_head.", "audio_tower.", "visual.")


class Qwen25Omni:
    """The architecture of Qwen2.5-Omni; what the parts mean says :class:`.architecture.Architecture`."""

    name = "Qwen2.5-Omni"
    model_class: Any = Qwen2_5OmniThinkerForConditionalGeneration
    language_model_linears = r"model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    ignored_prefixes: tuple[str, ...] = ("talker.", "token2wav.")
    front_end: FrontEnd = WhisperFrontEnd()

    def language_model(self, model: Any) -> Any:
        """Return what is between embeddings and head."""
        return model.model

    def no_mask(self, embedded: Tensor) -> Any:
        """Return Qwen2's masks by kind of layer."""
        return {"full_attention": None}

    def audio_modules(self, model: Any) -> dict[str, nn.Module]:
        """Return the tower, whose last layer projects."""
        return {"audio_tower": model.audio_tower}

    def new_audio_modules(self, config: Any) -> dict[str, nn.Module]:
        """Return a tower without weights."""
        audio = _thinker(config).audio_config
        return {"audio_tower": new_model(Qwen2_5OmniAudioEncoder, audio, attn_implementation="sdpa")}

    def unused(self, model: Any) -> list[nn.Parameter]:
        """Return the eyes, and an embedding of the tower that no forward pass reads."""
        return [*model.visual.parameters(), *model.audio_tower.audio_bos_eos_token.parameters()]

    def layers(self, model: Any) -> list[nn.Module]:
        """Return the layers of tower and language model, and those of the eyes, which are never gathered."""
        return [*model.audio_tower.layers, *model.model.layers, *model.visual.blocks]

    def text_config(self, config: Any) -> Any:
        """Return the language model's configuration."""
        return _thinker(config).text_config

    def audio_token_id(self, config: Any) -> int:
        """Return the token id of the audio placeholder."""
        return int(_thinker(config).audio_token_id)

    def mel_bins(self, config: Any) -> int:
        """Return how many mel bins a frame has."""
        return int(_thinker(config).audio_config.num_mel_bins)

    def encode_audio(self, parts: Mapping[str, Any], features: Tensor, feature_lengths: np.ndarray) -> Tensor:
        """Encode clips into the language model's embedding space, as long as they are heard.

        Args:
            parts: The tower.
            features: Log-mel features ``[B, M, F]`` of at least each clip's heard frames.
            feature_lengths: Heard mel frames ``[B]``.

        Returns:
            The embeddings of all clips' audio tokens, one clip after the other ``[sum of tokens, H]``.
        """
        tower = parts["audio_tower"]
        positions, tokens = audio_token_counts(feature_lengths)
        frames = _blocks(feature_lengths, 2 * tower.n_window)
        heard = _blocks(positions, tower.n_window)
        # all that the encoder would otherwise read from the device
        grid = np.arange(heard.max()) < heard[:, None]
        firsts = [2 * np.arange(n) + start for n, start in zip(tokens, np.cumsum(positions) - positions, strict=True)]
        lengths, valid, pooled = to_device_together(
            [frames, np.flatnonzero(grid), np.concatenate(firsts)], features.device
        )
        ends = np.append(0, np.cumsum(heard)).astype(np.int32)
        flash = "flash" in attention_of(tower)
        clips = torch.cat([clip[:, :count] for clip, count in zip(features, feature_lengths.tolist(), strict=True)], 1)
        blocks = nn.utils.rnn.pad_sequence(list(clips.T.split(frames.tolist())), batch_first=True).transpose(1, 2)
        embeddings: Tensor = tower(
            padded_feature=blocks,
            chunk_lengths=lengths,
            valid_indices=valid,
            pool_indices=pooled,
            # flash attention reads it on the device; the others split by it in each layer, in main memory
            cu_seqlens=to_device(ends, features.device) if flash else ends,
            max_seqlen=int(heard.max()) if flash else None,
        ).last_hidden_state
        return embeddings

    def hub_weights(self, name: str, value: Tensor) -> dict[str, Tensor]:
        """Return a weight of the thinker under its name on the Hub.

        Raises:
            KeyError: The name belongs to no known part of the model.
        """
        if not name.startswith(_PARTS):
            raise KeyError(f"weight {name!r} has no name on the Hub: expected one of the prefixes {sorted(_PARTS)}")
        return {f"thinker.{name}": value}

    def hub_config(self, config: Any, tied: bool) -> Any:
        """Return the configuration that is exported with the weights: that of a Qwen2.5-Omni without talker."""
        thinker = config.to_dict()
        # vLLM reads the language model's own word on it, transformers the thinker's
        thinker["tie_word_embeddings"] = thinker["text_config"]["tie_word_embeddings"] = tied
        return Qwen2_5OmniConfig(
            thinker_config=thinker,
            enable_audio_output=False,
            architectures=["Qwen2_5OmniForConditionalGeneration"],
            dtype=config.dtype,
        )


def _thinker(config: Any) -> Any:
    """Return the thinker's part of a checkpoint's configuration, which may be the whole of it."""
    return getattr(config, "thinker_config", config)


def _blocks(lengths: np.ndarray, size: int) -> np.ndarray:
    """Cut lengths into blocks: all of ``size`` but the last of each."""
    return np.array([min(size, n - start) for n in lengths.tolist() for start in range(0, n, size)])
