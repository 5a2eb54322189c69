"""A tiny random Qwen2-Audio with its processor, for tests: its tokens are bytes, and the words yes and no."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
CHAT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'audio' %}"
    "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\n"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def hub_name(name: str) -> str:
    """Return the Hub's name of a parameter of transformers' in-memory Qwen2-Audio."""
    name = name.removeprefix("model.")
    if name.startswith("language_model."):
        return "language_model.model." + name.removeprefix("language_model.")
    return "language_model.lm_head.weight" if name == "lm_head.weight" else name


AUDIO = {
    "num_mel_bins": 128,
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 128,
}


def build_tokenizer(
    special: list[str], chat_template: str, named: dict[str, str] | None = None
) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are bytes, and the words yes and no.

    Args:
        special: Special tokens; among them ``<|im_end|>`` and ``<|endoftext|>``.
        chat_template: The chat template.
        named: Special tokens by the names under which a processor asks for them.
    """
    symbols = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ye", "yes", "no"]
    merges = [("y", "e"), ("ye", "s"), ("n", "o")]
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=merges))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=chat_template,
        extra_special_tokens=named or special[3:],
    )


def build_processor(seconds: int = 30) -> Qwen2AudioProcessor:
    """Return a processor whose tokens are bytes."""
    fast = build_tokenizer(SPECIAL, CHAT)
    extractor = WhisperFeatureExtractor(feature_size=128, sampling_rate=16000, chunk_length=seconds)
    return Qwen2AudioProcessor(feature_extractor=extractor, tokenizer=fast, chat_template=CHAT)


def text_config(tokenizer: Any, **more: Any) -> dict[str, Any]:
    """Return the size of a tiny language model, and what else its configuration says."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1024,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
        **more,
    }


def build(directory: Path, seed: int = 0, seconds: int = 30, head: float = 40.0, **text: Any) -> Path:
    """Write the model to ``directory`` under Hub names, as vLLM and ``from_pretrained`` read it; ``text`` sizes it.

    Its head is spread by ``head``: the more, the surer it is of what it says.
    """
    processor = build_processor(seconds)
    tokenizer = processor.tokenizer
    audio = tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    config = Qwen2AudioConfig(
        audio_config={**AUDIO, "model_type": "qwen2_audio_encoder", "max_source_positions": 50 * seconds},
        text_config=text_config(tokenizer, model_type="qwen2", **text),
        audio_token_index=audio,
    )
    torch.manual_seed(seed)
    model = Qwen2AudioForConditionalGeneration(config)
    fields = {"architectures": ["Qwen2AudioForConditionalGeneration"], "audio_token_index": audio}
    return write_model(directory, processor, model, config.to_dict() | fields, hub_name, head)


def write_model(
    directory: Path,
    processor: Any,
    model: torch.nn.Module,
    fields: dict[str, Any],
    rename: Callable[[str], str] = str,
    head: float = 40.0,
) -> Path:
    """Write a random model whose weights are spread, so that what it says depends on what it is given.

    Args:
        directory: Where it is written.
        processor: Its processor.
        model: The model.
        fields: Its configuration.
        rename: Gives a weight's name in the file.
        head: How much the head's weights are spread.
    """
    state = {}
    for name, value in model.state_dict().items():
        matrix = value.ndim >= 2 and "embed_positions" not in name
        spread = head if name == "lm_head.weight" else 4.0 if matrix else 1.0
        state[rename(name)] = (value.detach() * spread).contiguous()
    directory.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(directory)
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(fields | {"dtype": "float32"}, indent=1, default=str))
    return directory
