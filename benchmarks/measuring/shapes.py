"""Students of a given size with random weights; nothing of data, tokenizers or media files is needed for them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

from datamodules.batching.batch import AudioQABatch


@dataclass(frozen=True)
class Shape:
    """Size of a student; the first one is that of the first measurements of ms-swift and TRL (30 M parameters).

    Attributes:
        vocabulary: V, rows of embedding and head.
        width: Width of the language model.
        mlp: Width of its feed-forward layers.
        layers: Its layers.
        heads: Its attention heads.
        key_heads: Its key and value heads.
        audio_width: Width of the audio tower.
        audio_layers: Its layers.
        audio_heads: Its attention heads.
    """

    vocabulary: int = 8192
    width: int = 512
    mlp: int = 1408
    layers: int = 6
    heads: int = 8
    key_heads: int = 4
    audio_width: int = 256
    audio_layers: int = 4
    audio_heads: int = 4

    def config(self, audio_token_id: int) -> Qwen2AudioConfig:
        """Return transformers' configuration."""
        return Qwen2AudioConfig(
            audio_config={
                "model_type": "qwen2_audio_encoder",
                "num_mel_bins": 128,
                "d_model": self.audio_width,
                "encoder_layers": self.audio_layers,
                "encoder_attention_heads": self.audio_heads,
                "encoder_ffn_dim": 4 * self.audio_width,
                "max_source_positions": 1500,
            },
            text_config={
                "model_type": "qwen2",
                "vocab_size": self.vocabulary,
                "hidden_size": self.width,
                "intermediate_size": self.mlp,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.key_heads,
                "max_position_embeddings": 8192,
                "tie_word_embeddings": False,
            },
            audio_token_index=audio_token_id,
            architectures=["Qwen2AudioForConditionalGeneration"],
        )


SHAPES = {
    "bench": Shape(),
    "tiny": Shape(vocabulary=1024, width=64, mlp=128, layers=2, heads=2, key_heads=1, audio_width=64, audio_layers=2),
    "7b": Shape(156_032, 4096, 11_008, 32, 32, 32, 1280, 32, 20),
}


def random_model(
    shape: Shape,
    audio_token_id: int,
    pad_token_id: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Qwen2AudioForConditionalGeneration:
    """Make a model with random weights; a small one's are spread, so that equal log-probabilities mean something."""
    config = shape.config(audio_token_id)
    config.text_config.pad_token_id = config.pad_token_id = pad_token_id
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen2AudioForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if shape.width < 1024 and weight.ndim >= 2 and "embed_positions" not in name:
                weight.mul_(5.0 if "lm_head" in name else 2.0)
    return model


def give_adapters_something_to_say(model: nn.Module, seed: int = 3) -> None:
    """Fill the adapters, whose second matrices start at zero, with the same random numbers for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            drawn = torch.randn(weight.shape, generator=generator)
            weight.data.copy_(0.02 * drawn)


def advantages_of(batch: AudioQABatch, seed: int = 0) -> Tensor:
    """Return random advantages ``[B, G]``."""
    assert batch.completions is not None
    return torch.randn(batch.completions.mask.shape[:2], generator=torch.Generator().manual_seed(seed))
