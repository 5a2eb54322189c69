"""A tiny random Qwen2.5-VL with its processor, for tests: what it says is noise, but it sees."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from tests.support.tiny_model import build_tokenizer, text_config, write_model

PATCH, MERGE = 14, 2
VISION = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 64,
    "fullatt_block_indexes": [1],
}
ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]}
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def of_student() -> Any:
    """Return a tokenizer whose words, and tokens that end something, have the ids of the tiny student's."""
    tokenizer = build_tokenizer(SPECIAL[:-1], CHAT)
    tokenizer.add_tokens(SPECIAL[-1:], special_tokens=True)
    return tokenizer


def build(directory: Path, seed: int = 0, tokenizer: Any = None) -> Path:
    """Write the model to ``directory``; pictures of up to 84 x 84 pixels are seen as they are, to the next 28."""
    tokenizer = tokenizer or build_tokenizer(SPECIAL, CHAT)
    size = {"shortest_edge": (PATCH * MERGE) ** 2, "longest_edge": 9 * (PATCH * MERGE) ** 2}
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(size=size), tokenizer, Qwen2VLVideoProcessor(size=size), chat_template=CHAT
    )
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    config = Qwen2_5_VLConfig(
        vision_config={**VISION, "tokens_per_second": 2},
        text_config=text_config(tokenizer, max_position_embeddings=4096, rope_parameters=ROPE),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    fields = config.to_dict() | {"architectures": ["Qwen2_5_VLForConditionalGeneration"]}
    return write_model(directory, processor, model, fields, head=6.0)
