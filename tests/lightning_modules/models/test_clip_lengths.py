"""Clips of all lengths: placeholders in the prompt, mel frames and the tower's embeddings agree."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.batching.audio_tokens import num_audio_tokens
from datamodules.batching.collate import Collator, Example
from datamodules.media.audio import MIN_SAMPLES
from datamodules.prompts.questions import THINK_SHORT
from inference.vllm.client import VLLMClient, audio_url
from inference.vllm.sampling import SamplingParams
from inference.vllm_server import VLLMServer
from lightning_modules.models.student import Student
from records.records import Question
from tests.support import tiny_flamingo, tiny_model, tiny_omni

QUESTION = Question("avqa/val/1", "avqa", "a.mp4", "What is heard?", ("a dog", "a cat"), 0, "Which")
WINDOW = 30 * 16_000
BUILD: dict[str, Callable[[Path], Path]] = {
    "qwen2_audio": lambda place: tiny_model.build(place, seconds=30),
    "qwen2_5_omni": lambda place: tiny_omni.build(place, seconds=30, window=100),
    "audio_flamingo_3": lambda place: tiny_flamingo.build(place, seconds=30, windows=2),
}


def lengths(window: int, count: int) -> list[int]:
    """Return lengths from the shortest clip to more than the window holds.

    Around every boundary at which a frame (160 samples), a position (320), a token (640) or a block of an Omni's
    encoder (32,000) begins, near both ends, and anywhere.
    """
    drawn = np.random.default_rng(0).integers(MIN_SAMPLES, window, count).tolist()
    edges = [480, 1_280, 32_000, 64_320, window - 160, window]
    near = [edge + step for edge in edges for step in (-1, 0, 1) if edge <= window]
    return sorted({MIN_SAMPLES, MIN_SAMPLES + 1, *drawn, *near, window + 12_345})


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)


@pytest.fixture(scope="module", params=sorted(BUILD))
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Student:
    return Student(str(BUILD[request.param](tmp_path_factory.mktemp("weights") / "tiny"))).eval()


def test_placeholders_by_hand() -> None:
    # 0.025 s are 3 frames (the last one begun only): 2 positions, 1 token. 30 s are 3,000 frames: 1,500, 750.
    # Of 20 s, 2,000 frames, are 500 tokens; the next one needs two whole positions: a sample more than 2,002 frames
    by_hand = {MIN_SAMPLES: 1, 480_000: 750, 320_000: 500, 320_001: 500, 320_320: 500, 320_321: 501}
    for samples, tokens in by_hand.items():
        assert num_audio_tokens(-(-samples // 160)) == tokens, samples


def test_prompt_features_and_tower_agree(student: Student) -> None:
    collate = Collator(student.processor, THINK_SHORT)
    audio_modules = student.architecture.audio_modules(student.base)
    for group in _groups(lengths(WINDOW, 6), 6):
        batch = collate([Example(QUESTION, noise(samples)) for samples in group])
        heard = [min(samples, collate.max_samples) for samples in group]
        assert [len(waveform) for waveform in batch.waveforms] == heard
        assert batch.feature_lengths.tolist() == [-(-samples // 160) for samples in heard]
        placeholders = (batch.prompt_ids == collate.audio_id).sum(-1).tolist()
        with torch.no_grad():
            embeddings = student.architecture.encode_audio(audio_modules, batch.features, batch.feature_lengths)
        assert min(placeholders) > 0
        assert len(embeddings) == sum(placeholders), group
        for waveform, ids, length in zip(batch.waveforms, batch.prompt_ids, batch.prompt_lengths, strict=True):
            whole = student.processor(
                text=collate.text(QUESTION), audio=waveform, sampling_rate=16_000, return_tensors="pt"
            )
            assert ids[:length].tolist() == whole["input_ids"][0].tolist(), len(waveform)


@pytest.mark.server
def test_the_server_expands_prompts_alike(vllm_server: VLLMServer, server_weights: Path) -> None:
    client = VLLMClient(vllm_server.url, request_seconds=60)
    collate = Collator(Student(str(server_weights)).processor, THINK_SHORT)
    batch = collate([Example(QUESTION, noise(samples)) for samples in lengths(2 * 16_000, 8)])
    for number, waveform in enumerate(batch.waveforms):
        answer = client.generate(batch.request_ids[number], audio_url(waveform), SamplingParams(1, 2, 1.0, 0, ()))
        expected = batch.prompt_ids[number, : batch.prompt_lengths[number]].tolist()
        assert answer.prompt_token_ids == expected, len(waveform)
    assert client.healthy()
    client.close()


def _groups(values: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
