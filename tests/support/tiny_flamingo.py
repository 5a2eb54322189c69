"""A tiny random Audio Flamingo 3 with its processor, for tests."""

from pathlib import Path

import torch
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    WhisperFeatureExtractor,
)

from tests.support.tiny_model import AUDIO, build_tokenizer, hub_name, text_config, write_model

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<sound>", "<|sound_bos|>", "<|sound_eos|>"]
# the released template, as far as audio and text go
CHAT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'audio' %}<sound>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(directory: Path, seed: int = 0, seconds: int = 2, windows: int = 3) -> Path:
    """Write the model to ``directory``.

    Args:
        directory: Where it goes.
        seed: Seed of the random weights.
        seconds: Length of a window; vLLM knows the released 30 s only.
        windows: How many of them are heard.
    """
    tokenizer = build_tokenizer(SPECIAL, CHAT)
    extractor = WhisperFeatureExtractor(feature_size=128, sampling_rate=16_000, chunk_length=seconds)
    processor = AudioFlamingo3Processor(extractor, tokenizer, chat_template=CHAT, max_audio_len=windows * seconds)
    audio = tokenizer.convert_tokens_to_ids("<sound>")
    config = AudioFlamingo3Config(
        audio_config={**AUDIO, "model_type": "audioflamingo3_encoder", "max_source_positions": 50 * seconds},
        text_config=text_config(tokenizer, model_type="qwen2", max_position_embeddings=4096),
        audio_token_id=audio,
    )
    torch.manual_seed(seed)
    model = AudioFlamingo3ForConditionalGeneration(config)
    fields = config.to_dict() | {"architectures": ["AudioFlamingo3ForConditionalGeneration"]}
    return write_model(directory, processor, model, fields, hub_name)
