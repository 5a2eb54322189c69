"""What only Audio Flamingo 3 has: clips of several windows, each encoded by itself."""

import numpy as np
import pytest
import torch

from datamodules.batching.collate import Collator, Example
from datamodules.prompts.questions import PROMPTS
from lightning_modules.models.student import Student
from tests.lightning_modules.models.test_collated_batches import QUESTION
from tests.support.students import clip

WINDOW = 32_000


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test here is of an Audio Flamingo."""
    if "weights" in metafunc.fixturenames:
        metafunc.parametrize("weights", ["audio_flamingo_3"], indirect=True, scope="session")


def encoded(student: Student, *samples: int) -> list[torch.Tensor]:
    examples = [Example(QUESTION, clip(5.0, 1)[:count]) for count in samples]
    batch = Collator(student.processor, PROMPTS["think"])(examples)
    with torch.no_grad():
        return list(
            student.encode_audio(batch).split(student.architecture.front_end.num_tokens(batch.feature_lengths).tolist())
        )


def test_tokens_by_hand(processor) -> None:
    """Two seconds are 50 tokens; frames beyond add one for every four, and one or two begun ones add none."""
    collate = Collator(processor, PROMPTS["think"])
    by_hand = {WINDOW: 50, WINDOW + 1: 50, WINDOW + 321: 51, 2 * WINDOW: 100, 2 * WINDOW + 640: 101, 9 * WINDOW: 150}
    for samples, tokens in by_hand.items():
        assert collate.num_audio_tokens(samples) == tokens, samples
    assert collate.seconds == 6.0


def test_the_first_window_does_not_hear_the_second(weights) -> None:
    student = Student(weights).eval()
    (alone,), (long,) = encoded(student, WINDOW), encoded(student, 70_000)
    torch.testing.assert_close(long[:50], alone, atol=1e-5, rtol=0)
    assert len(long) == 50 + 50 + 9


def test_a_begun_frame_after_a_window_is_no_window(weights) -> None:
    student = Student(weights).eval()
    (whole,), (begun,) = encoded(student, WINDOW), encoded(student, WINDOW + 100)
    torch.testing.assert_close(begun, whole, atol=1e-5, rtol=0)


def test_clips_of_several_windows_do_not_touch_each_other(weights) -> None:
    student = Student(weights).eval()
    counts = (70_000, 400, WINDOW, 40_001)
    for together, count in zip(encoded(student, *counts), counts, strict=True):
        torch.testing.assert_close(together, encoded(student, count)[0], atol=1e-5, rtol=0)


def test_what_is_too_long_is_cut(processor) -> None:
    batch = Collator(processor, PROMPTS["think"])([Example(QUESTION, np.zeros(7 * WINDOW, np.float32))])
    assert len(batch.waveforms[0]) == 3 * WINDOW and batch.features.shape[-1] == 600
