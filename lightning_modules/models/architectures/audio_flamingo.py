"""Audio Flamingo 3: Qwen2-Audio's parts and names, a projector of two layers, and clips of up to ten minutes.

A clip is heard in windows of 30 s, each encoded by itself. As in Qwen2-Audio what lies beyond a window's end is masked,
so that it need not be computed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AudioFlamingo3ForConditionalGeneration
from transformers.models.audioflamingo3.modeling_audioflamingo3 import (
    AudioFlamingo3Encoder,
    AudioFlamingo3MultiModalProjector,
)

from datamodules.batching.audio_tokens import EDGE_FRAMES
from datamodules.batching.front_end import FrontEnd
from datamodules.batching.windowed_front_end import WindowedFrontEnd
from lightning_modules.models.architectures.qwen2_audio import Qwen2Audio
from lightning_modules.models.architectures.transformers_internals import new_model
from lightning_modules.models.architectures.whisper_encoding import encode_signals, without_padding


class AudioFlamingo3(Qwen2Audio):
    """The architecture of Audio Flamingo 3; what the parts mean says :class:`.architecture.Architecture`."""

    name = "Audio Flamingo 3"
    model_class: Any = AudioFlamingo3ForConditionalGeneration
    front_end: FrontEnd = WindowedFrontEnd()

    def new_audio_modules(self, config: Any) -> dict[str, nn.Module]:
        """Return a tower and a projector without weights."""
        return {
            "audio_tower": new_model(AudioFlamingo3Encoder, config.audio_config, attn_implementation="sdpa"),
            "multi_modal_projector": AudioFlamingo3MultiModalProjector(config),
        }

    def encode_audio(self, parts: Mapping[str, Any], features: Tensor, feature_lengths: np.ndarray) -> Tensor:
        """Encode clips window by window into the language model's embedding space.

        Args:
            parts: Tower and projector.
            features: Log-mel features ``[B, M, F]``, the windows of each clip joined; as Qwen2-Audio's beyond its end.
            feature_lengths: Heard mel frames ``[B]``.

        Returns:
            The embeddings of all clips' audio tokens, one clip after the other ``[sum of tokens, H]``.
        """
        tower = parts["audio_tower"]
        windows, lengths = self._windows(features, feature_lengths, 2 * tower.max_source_positions)
        hidden = encode_signals(tower, windows, lengths)
        return without_padding(parts["multi_modal_projector"](hidden), lengths)

    def _windows(self, features: Tensor, feature_lengths: np.ndarray, size: int) -> tuple[Tensor, np.ndarray]:
        """Cut clips into windows of ``size`` frames: ``[W, M, frames]`` and the heard frames of each ``[W]``."""
        if feature_lengths.max() <= size:
            return features, feature_lengths
        windows, lengths = [], []
        for clip, heard in zip(features, feature_lengths.tolist(), strict=True):
            for start in range(0, heard, size):
                length = min(size, heard - start)
                if self.front_end.num_tokens(length) > 0:  # a frame or two at the end are no token
                    window = clip[:, start : start + min(length + EDGE_FRAMES, size)]
                    windows.append(nn.functional.pad(window, (0, size - window.shape[1])))
                    lengths.append(length)
        return torch.stack(windows), np.array(lengths)

    def hub_config(self, config: Any, tied: bool) -> Any:
        """Return the configuration that is exported with the weights; head and embeddings are never one here."""
        fields = config.to_dict()
        fields["architectures"] = ["AudioFlamingo3ForConditionalGeneration"]
        return config.from_dict(fields)
