"""The DataModules' batches are scored as the released forward would score the same clips."""

import numpy as np
import pytest
import torch

from datamodules.batching.collate import Collator, Example
from datamodules.prompts.questions import PROMPTS
from lightning_modules.models.student import Student
from records.records import Question
from tests.support.students import ARCHITECTURES, clip, released_logprobs

QUESTION = Question("q/0", "avqa", "a.wav", "What is heard?", ("dog", "cat"), 0, "Which")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test of a student for each family."""
    if "weights" in metafunc.fixturenames:
        metafunc.parametrize("weights", ARCHITECTURES, indirect=True, scope="session")


@pytest.mark.parametrize(
    "samples", [16000, 16160, 16161, 15999, 6880, 400, 32000, 31990, 32160, 75000, 500000], ids=str
)
def test_a_single_clip_of_any_length(weights, processor, samples: int) -> None:
    student = Student(weights)
    example = Example(
        QUESTION, clip(31.25, 3)[:samples], "dog", ("<think>I hear barking.</think><answer>dog</answer>", "cat")
    )
    batch = Collator(processor, PROMPTS["think"])([example])
    longest = student.architecture.front_end.max_samples(processor)
    assert np.array_equal(batch.waveforms[0], example.waveform[:longest])
    with torch.no_grad():
        expected = released_logprobs(student.model, processor, batch)
        got = student.completion_logprobs(batch).logprobs
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_clips_of_different_lengths_do_not_touch_each_other(weights, processor) -> None:
    student = Student(weights)
    examples = [
        Example(
            QUESTION,
            clip(5.0, n)[:samples],
            "dog",
            ("<answer>dog</answer>", "a cat")[: 1 + n % 2],
        )
        for n, samples in enumerate([32000, 16161, 6880, 70000, 64160, 9999])
    ]
    collator = Collator(processor, PROMPTS["think"])
    with torch.no_grad():
        together = student.completion_logprobs(collator(examples)).logprobs
        for row, example in enumerate(examples):
            alone = student.completion_logprobs(collator([example])).logprobs[0]
            part = together[row, : alone.shape[0], : alone.shape[1]]
            torch.testing.assert_close(part, alone, atol=1e-4, rtol=0)
