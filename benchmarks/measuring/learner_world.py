"""A student of a given size with random weights and synthetic questions for it: what the learner is measured on."""

import random
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor, WhisperFeatureExtractor

from benchmarks.measuring.shapes import Shape, random_model
from datamodules.batching.batch import AudioQABatch, Completions
from datamodules.batching.collate import Collator, Example
from datamodules.media.audio import SAMPLE_RATE
from datamodules.prompts.questions import Prompt
from mini.world.student import CHAT_TEMPLATE, train_tokenizer
from records.records import Question

PROMPT = Prompt("bench", "{question} Choose one of these options: {options}", separator=" ")
SOUNDS = ("dog barking", "rain falling", "engine running", "bell ringing", "wind blowing", "drum beating")


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
        targets: tuple[str, ...] = ()
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
            texts=[[f"<think></think><answer>{SOUNDS[g % len(SOUNDS)]}</answer>" for g in range(group)]] * questions,
            finished=np.ones(shape[:2], dtype=bool),
            logprobs=torch.zeros(shape),
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
    """Make a student with random weights for the world's tokenizer."""
    tokenizer = world.processor.tokenizer
    audio = tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    model = random_model(shape, audio, tokenizer.pad_token_id, device, dtype, seed)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
