"""A student of a given size with random weights and synthetic questions for it: what the learner is measured on."""

import random
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from datamodules.audio import SAMPLE_RATE
from datamodules.batch import AudioQABatch, Completions
from datamodules.collate import Collator, Example
from datamodules.prompts import Prompt
from datamodules.records import Question
from mini.student import CHAT_TEMPLATE, train_tokenizer

PROMPT = Prompt("bench", "{question} Choose one of these options: {options}", separator=" ")
SOUNDS = ("dog barking", "rain falling", "engine running", "bell ringing", "wind blowing", "drum beating")


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


@dataclass
class World:
    """Questions and completions for a processor, the same ones for the same seed.

    Attributes:
        processor: The processor.
        words: What questions and targets are made of.
    """

    processor: Qwen2AudioProcessor
    words: list[str]
    collator: Collator = field(init=False)

    def __post_init__(self) -> None:
        self.collator = Collator(self.processor, PROMPT)

    def example(self, seed: int, seconds: float = 10.0, extra_words: int = 0, target_tokens: int = 0) -> Example:
        """Return a question about a clip of noisy tones.

        Args:
            seed: Which one.
            seconds: Length of the clip.
            extra_words: Words by which the question is longer than usual.
            target_tokens: Length of the completion to learn, about; 0 for none.
        """
        rng, noise = random.Random(seed), np.random.default_rng(seed)
        time = np.arange(round(SAMPLE_RATE * seconds)) / SAMPLE_RATE
        wave = 0.2 * np.sin(2 * np.pi * noise.uniform(100, 4000) * time) + 0.05 * noise.standard_normal(len(time))
        options = tuple(rng.sample(SOUNDS, 4))
        text = " ".join(["Which sound is heard in the audio clip?", *rng.choices(self.words, k=extra_words)])
        question = Question(f"bench/{seed}", "bench", f"{seed}.wav", text, options, 0, "Which")
        targets = ()
        if target_tokens:
            ids = self.processor.tokenizer(" ".join(rng.choices(self.words, k=target_tokens)))["input_ids"]
            targets = (self.processor.tokenizer.decode(ids[: target_tokens - 1]),)
        return Example(question, wave.astype(np.float32), options[0], targets)

    def grpo_batch(
        self,
        questions: int = 2,
        group: int = 8,
        tokens: int = 150,
        seconds: float = 10.0,
        extra_words: int = 0,
        seed: int = 0,
    ) -> AudioQABatch:
        """Return questions with random completions, all of the same length."""
        batch = self.collator([self.example(seed + b, seconds, extra_words) for b in range(questions)])
        shape = (questions, group, tokens)
        generator = torch.Generator().manual_seed(seed)
        batch.completions = Completions(
            ids=torch.randint(6, len(self.processor.tokenizer), shape, generator=generator),
            mask=torch.ones(shape, dtype=torch.bool),
            texts=[[""] * group for _ in range(questions)],
            finished=torch.ones(shape[:2], dtype=torch.bool),
        )
        return batch

    def sft_examples(self, questions: int, traces: int = 1, seconds: float = 10.0, seed: int = 0) -> list[Example]:
        """Return questions with targets of 90 to 160 tokens."""
        rng = random.Random(seed)
        made = []
        for b in range(questions):
            several = [self.example(seed + b, seconds, 0, rng.randint(90, 160)) for _ in range(traces)]
            texts = tuple(text for one in several for text in one.targets)
            made.append(Example(several[0].question, several[0].waveform, several[0].label, texts))
        return made


def build_world(vocabulary: int = 8192, seed: int = 0) -> World:
    """Make a processor whose tokenizer has at most ``vocabulary`` tokens."""
    rng = random.Random(seed)
    syllables = ("ba", "ke", "ri", "mo", "tu", "la", "sen", "dor", "vi", "pa", "qu", "ther", "ing", "ston", "el", "ach")
    words = sorted({"".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(12_000)})
    rng.shuffle(words)
    corpus = [" ".join(words[i : i + 50]) for i in range(0, len(words), 50)] * 3
    corpus += ["You are a helpful assistant. user system assistant Audio Which sound is heard in the audio clip?"] * 50
    corpus += [PROMPT.template] * 50
    corpus += [", ".join(SOUNDS)] * 50
    tokenizer = train_tokenizer(corpus, min(vocabulary, 8192))
    extractor = WhisperFeatureExtractor(feature_size=128, sampling_rate=SAMPLE_RATE)
    processor = Qwen2AudioProcessor(feature_extractor=extractor, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE)
    return World(processor, words[:3000])


def build_model(
    shape: Shape,
    world: World,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Qwen2AudioForConditionalGeneration:
    """Make a student with random weights; a small one's are spread, so that equal log-probabilities mean something."""
    tokenizer = world.processor.tokenizer
    config = shape.config(tokenizer.convert_tokens_to_ids("<|AUDIO|>"))
    config.text_config.pad_token_id = config.pad_token_id = tokenizer.pad_token_id
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
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
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
