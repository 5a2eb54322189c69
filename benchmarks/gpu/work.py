"""What all parts measure on: a student of a given geometry, questions for it, and where their figures go."""

import dataclasses
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

from benchmarks.measuring.needed_flops import grpo_flops, sft_flops
from benchmarks.measuring.shapes import SHAPES, Shape, give_adapters_something_to_say, random_model
from datamodules.batching.audio_tokens import EDGE_FRAMES, num_audio_tokens
from datamodules.batching.batch import AudioQABatch, Completions
from lightning_modules.models.adapters import LoRASettings
from lightning_modules.models.student import Student
from records.reasoning_tags import tagged_answer, tagged_thought
from records.records import Question
from runtime.whole_file import write_whole

SAMPLE_RATE, FRAME_RATE = 16_000, 100
PAD, FIRST_WORD = 0, 6
AUDIO_TOKENS = {"7b": 151_646}
OPTIONS = ("dog barking", "rain falling", "engine running", "bell ringing")


@dataclass(frozen=True)
class Work:
    """What is measured.

    Attributes:
        geometry: A name of :data:`benchmarks.measuring.shapes.SHAPES`.
        device: ``cuda`` or ``cpu``.
        dtype: Type of the weights that are not trained.
        seed: Of weights, clips and tokens.
        seconds: Length of the clips.
        text_tokens: Tokens of a prompt beside the audio, about.
        group: Completions of each question.
        tokens: Tokens of each completion.
        largest: Most questions of a micro-batch that is tried.
        repeats: Most repetitions of a measurement.
        budget: Seconds that a part may take.
    """

    geometry: str = "7b"
    device: str = "cuda"
    dtype: str = "bfloat16"
    seed: int = 0
    seconds: float = 10.0
    text_tokens: int = 60
    group: int = 8
    tokens: int = 200
    largest: int = 64
    repeats: int = 5
    budget: float = 120.0

    @property
    def shape(self) -> Shape:
        """The student's size."""
        return SHAPES[self.geometry]

    @property
    def torch_dtype(self) -> torch.dtype:
        """:attr:`dtype` as torch knows it."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    def autocast(self, wanted: bool = True) -> torch.autocast:
        """Compute as ``trainer.precision`` bf16-mixed does; with frozen weights of float32, as 32-true does."""
        return torch.autocast(self.device, torch.bfloat16, enabled=wanted and self.dtype == "bfloat16")

    @property
    def audio_token(self) -> int:
        """The placeholder's id."""
        return AUDIO_TOKENS.get(self.geometry, FIRST_WORD - 1)


class Record:
    """Figures of a part, on disk as soon as they are known."""

    def __init__(self, path: Path, budget: float) -> None:
        """Begin without figures.

        Args:
            path: Where they are written as JSON.
            budget: Seconds from now on that the part may take.
        """
        self.path = path
        self.figures: dict[str, Any] = {}
        self._end = time.monotonic() + budget
        self._write()

    @property
    def left(self) -> float:
        """Seconds until the part must have ended."""
        return self._end - time.monotonic()

    def add(self, **figures: Any) -> None:
        """Keep figures and print them."""
        self.figures |= figures
        self._write()
        for name, value in figures.items():
            print(f"  {name}: {json.dumps(value)}"[:600], flush=True)

    def append(self, name: str, row: dict[str, Any]) -> None:
        """Keep a row of a table and print it."""
        self.figures.setdefault(name, []).append(row)
        self._write()
        print(f"  {name}: {json.dumps(row)}"[:600], flush=True)

    def _write(self) -> None:
        write_whole(self.path, [json.dumps(self.figures)])


def stand_in_processor() -> Any:
    """Return a processor without a tokenizer: ids are drawn, so nothing is ever tokenized."""
    return SimpleNamespace(feature_extractor=WhisperFeatureExtractor(feature_size=128, sampling_rate=SAMPLE_RATE))


def new_student(
    work: Work, checkpointing: bool = False, lora: bool = True, dtype: torch.dtype | None = None, layers: int = 0
) -> Student:
    """Make a student whose weights are drawn on the device, the same ones for the same seed.

    Args:
        work: Its geometry.
        checkpointing: Gradient checkpointing.
        lora: Adapters of rank 8, filled with something; otherwise all weights are trained.
        dtype: Type of its weights, the work's unless given.
        layers: Layers of its language model, all unless given.
    """
    shape = dataclasses.replace(work.shape, layers=layers) if layers else work.shape
    model = random_model(shape, work.audio_token, PAD, work.device, dtype or work.torch_dtype, work.seed)
    settings = LoRASettings(rank=8, alpha=16) if lora else None
    student = Student.of_model(model, stand_in_processor(), settings, checkpointing)
    give_adapters_something_to_say(student)
    return student


def new_batch(work: Work, questions: int, group: int | None = None) -> AudioQABatch:
    """Return questions about clips of noisy tones, with random completions that all have the same length.

    Prompts differ in length by up to a third of their text, as real ones do.
    """
    group = group or work.group
    rng = random.Random(work.seed)
    noise = np.random.default_rng(work.seed)
    generator = torch.Generator().manual_seed(work.seed)
    words = min(work.shape.vocabulary, 150_000)
    times = np.arange(round(SAMPLE_RATE * work.seconds), dtype=np.float32) / SAMPLE_RATE
    waves = [
        (0.2 * np.sin(2 * np.pi * noise.uniform(100, 4000) * times) + 0.05 * noise.standard_normal(len(times))).astype(
            np.float32
        )
        for _ in range(questions)
    ]
    frames = round(FRAME_RATE * work.seconds)
    extractor = stand_in_processor().feature_extractor
    features = extractor(waves, sampling_rate=SAMPLE_RATE, padding="max_length", return_tensors="pt")["input_features"]
    heard = np.full(questions, frames)
    audio = torch.full((num_audio_tokens(frames),), work.audio_token)
    asked, prompts = [], []
    for _ in range(questions):
        text = work.text_tokens + rng.randint(-work.text_tokens // 6, work.text_tokens // 6)
        drawn = torch.randint(FIRST_WORD, words, (text,), generator=generator)
        before, after = drawn[: text // 4], drawn[text // 4 :]
        asked.append([*before.tolist(), work.audio_token, *after.tolist()])
        prompts.append(torch.cat([before, audio, after]))
    shape = (questions, group, work.tokens)
    texts = [tagged_thought("It sounds like that. " * 30) + tagged_answer(option) for option in OPTIONS]
    return AudioQABatch(
        questions=[
            Question(f"gpu/{b}", "gpu", f"{b}.wav", "Which sound?", OPTIONS, 0, "all") for b in range(questions)
        ],
        waveforms=waves,
        request_ids=asked,
        prompt_ids=torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True, padding_value=PAD),
        prompt_lengths=np.array([len(prompt) for prompt in prompts]),
        features=features[..., : frames + EDGE_FRAMES],
        feature_lengths=heard,
        labels=[OPTIONS[0]] * questions,
        completions=Completions(
            ids=torch.randint(FIRST_WORD, words, shape, generator=generator),
            mask=torch.ones(shape, dtype=torch.bool),
            texts=[[texts[g % len(texts)] for g in range(group)] for _ in range(questions)],
            finished=np.ones(shape[:2], dtype=bool),
            logprobs=torch.zeros(shape),
        ),
    )


def throughput(work: Work, batch: AudioQABatch, seconds: float, task: str) -> dict[str, float]:
    """Return what a step of so many seconds gets done; operations are those that are needed."""
    done = batch.completions
    assert done is not None
    completions, tokens = done.mask.shape[0] * done.mask.shape[1], int(done.mask.sum())
    flops = (grpo_flops if task == "grpo" else sft_flops)(work.shape, batch)
    return {
        "completions": completions,
        "completions_per_s": round(completions / seconds, 2),
        "completion_tokens_per_s": round(tokens / seconds, 1),
        "tokens_per_s": round((tokens + int(batch.prompt_lengths.sum())) / seconds, 1),
        "needed_tflop": round(flops / 1e12, 3),
        "needed_tflop_per_s": round(flops / seconds / 1e12, 3),
    }
