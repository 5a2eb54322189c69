"""The small student: Qwen2-Audio with its real processor and chat template, and random weights."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from lightning_modules.models.architectures.qwen2_audio import Qwen2Audio
from mini.world.scale import StudentConfig
from runtime.whole_folder import whole_folder

FORMAT = 1  # raise it when the recipe changes: cached students are then built anew
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
WORDS = r"</?(?:think|answer)>| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}<]+|<|\s+(?!\S)|\s+"
"""What the tokenizer never merges across: words as in GPT-2, and the tags of the reasoning format as a whole."""
# Qwen2-Audio-Instruct's template
CHAT_TEMPLATE = (
    "{% set audio_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if 'audio' in content or 'audio_url' in content or message['type'] == 'audio' or content['type'] == 'audio' %}"
    "{% set audio_count.value = audio_count.value + 1 %}"
    "Audio {{ audio_count.value }}: <|audio_bos|><|AUDIO|><|audio_eos|>\n"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with Qwen2-Audio's special tokens; think and answer tags stay whole.

    Args:
        texts: What the student will read and write.
        vocabulary: Largest number of tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def build_student(
    directory: str | os.PathLike[str],
    texts: Iterable[str],
    config: StudentConfig | None = None,
    progress: Callable[[str], None] = print,
) -> Path:
    """Write a random student that ``from_pretrained`` and vLLM load, or reuse the one that is there.

    Args:
        directory: Where it goes.
        texts: What the tokenizer is trained on.
        config: Its size.
        progress: Called with a line of text when done.

    Returns:
        The directory.
    """
    config = config or StudentConfig()
    texts = list(texts)
    recipe = json.dumps({"format": FORMAT, **dataclasses.asdict(config), "texts": texts}, sort_keys=True)
    fingerprint = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    target = Path(directory)
    stamp = target / "student.json"
    if stamp.exists() and json.loads(stamp.read_text()).get("fingerprint") == fingerprint:
        progress(f"student: {target} is up to date")
        return target
    if target.exists() and not stamp.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} holds something that is not such a student: choose another directory")
    tokenizer = train_tokenizer(texts, config.vocabulary)
    extractor = WhisperFeatureExtractor(feature_size=config.mel_bins, sampling_rate=16_000, chunk_length=2)
    processor = Qwen2AudioProcessor(feature_extractor=extractor, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE)
    model = _random_model(config, tokenizer)
    architecture = Qwen2Audio()
    with whole_folder(target, lasting=False) as partial:
        weights = (architecture.hub_weights(name, value) for name, value in model.state_dict().items())
        save_torch_state_dict({name: part.contiguous() for parts in weights for name, part in parts.items()}, partial)
        model.config.save_pretrained(partial)
        model.generation_config.save_pretrained(partial)
        processor.save_pretrained(partial)
        (partial / "student.json").write_text(
            json.dumps({"fingerprint": fingerprint, **dataclasses.asdict(config)}, indent=1) + "\n"
        )
    size = sum(p.numel() for p in model.parameters())
    progress(f"student: {size / 1e6:.1f} M random weights, {len(tokenizer)} tokens, written to {target}")
    return target


def _random_model(config: StudentConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen2AudioForConditionalGeneration:
    audio_token: Any = tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    model_config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": config.mel_bins,
            "d_model": config.audio_width,
            "encoder_layers": config.audio_layers,
            "encoder_attention_heads": config.heads,
            "encoder_ffn_dim": 4 * config.audio_width,
            "max_source_positions": 100,
            "initializer_range": config.audio_spread,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": config.width,
            "intermediate_size": 3 * config.width,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.heads,
            "max_position_embeddings": 1024,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": False,
            "initializer_range": config.spread,
        },
        audio_token_index=audio_token,
        architectures=["Qwen2AudioForConditionalGeneration"],
        dtype="float32",
    )
    torch.manual_seed(config.seed)
    model = Qwen2AudioForConditionalGeneration(model_config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
