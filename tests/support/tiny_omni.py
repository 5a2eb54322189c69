"""A tiny random Qwen2.5-Omni with its processor, for tests: a thinker under Hub names, without a talker."""

from pathlib import Path

import torch
from transformers import (
    Qwen2_5OmniConfig,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

from tests.support.tiny_model import AUDIO, SPECIAL, build_tokenizer, text_config, write_model
from tests.support.tiny_vision_model import ROPE, VISION

NAMED = {
    "audio_token": "<|AUDIO|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
}
# the released template, as far as audio and text go
CHAT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_processor(seconds: int) -> Qwen2_5OmniProcessor:
    """Return a processor whose tokens are bytes."""
    special = [*SPECIAL, *(token for token in NAMED.values() if token not in SPECIAL)]
    size = {"shortest_edge": 28**2, "longest_edge": 9 * 28**2}
    return Qwen2_5OmniProcessor(
        Qwen2VLImageProcessor(size=size),
        Qwen2VLVideoProcessor(size=size),
        WhisperFeatureExtractor(feature_size=128, sampling_rate=16_000, chunk_length=seconds),
        build_tokenizer(special, CHAT, NAMED),
        chat_template=CHAT,
    )


def build(directory: Path, seed: int = 0, seconds: int = 2, window: int = 25) -> Path:
    """Write the model to ``directory``.

    Args:
        directory: Where it goes.
        seed: Seed of the random weights.
        seconds: What the feature extractor takes.
        window: Half the mel frames of a block that the encoder hears by itself. The released model has 100; with 25 a
            clip of two seconds has four blocks, and an odd number of positions in each, so that pooling crosses them.
    """
    processor = build_processor(seconds)
    tokenizer = processor.tokenizer
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in NAMED.items()}
    thinker = {
        "audio_config": {**AUDIO, "n_window": window, "output_dim": 64},
        "vision_config": VISION,
        "text_config": text_config(tokenizer, rope_parameters=ROPE),
        "audio_token_index": ids["audio_token"],
        "image_token_index": ids["image_token"],
        "video_token_index": ids["video_token"],
        "audio_start_token_id": ids["audio_bos_token"],
        "audio_end_token_id": ids["audio_eos_token"],
        "vision_start_token_id": ids["vision_bos_token"],
        "vision_end_token_id": ids["vision_eos_token"],
    }
    config = Qwen2_5OmniConfig(thinker_config=thinker, enable_audio_output=False)
    torch.manual_seed(seed)
    model = Qwen2_5OmniThinkerForConditionalGeneration(config.thinker_config)
    fields = config.to_dict() | {"architectures": ["Qwen2_5OmniModel"]}
    return write_model(directory, processor, model, fields, "thinker.{}".format)
