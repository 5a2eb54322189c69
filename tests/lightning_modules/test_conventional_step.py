"""The learner's steps equal the conventional ones: the unmodified model, a row for each completion, full logits."""

import pytest
import torch

from benchmarks.measuring import conventional
from benchmarks.measuring.learner_world import build_model, build_world
from benchmarks.measuring.shapes import SHAPES, advantages_of, give_adapters_something_to_say
from lightning_modules.models.student import LoRASettings, Student
from lightning_modules.objectives.losses import grpo_loss, sft_loss
from tests.support.students import make_batch


@pytest.fixture(scope="module")
def world():
    return build_world(1024)


def gradient(model) -> torch.Tensor:
    found = {n.replace("base_model.model.", ""): p.grad for n, p in model.named_parameters() if p.grad is not None}
    return torch.cat([found[name].flatten() for name in sorted(found)])


@pytest.fixture(scope="module")
def models(world):
    """The same weights and adapters twice: peft's way and ours."""
    theirs = conventional.with_adapters(build_model(SHAPES["tiny"], world))
    ours = Student.of_model(build_model(SHAPES["tiny"], world), world.processor, LoRASettings())
    for model in (theirs, ours.model):
        give_adapters_something_to_say(model)
    return theirs, ours


LENGTHS = [[3, 30, 12], [24, 1, 17]]


def test_grpo_step_equals_the_conventional_one(world, models) -> None:
    """Clips and completions of different lengths in one micro-batch."""
    theirs, ours = models
    batch = make_batch(world.processor, [10.0, 6.37], LENGTHS)
    advantages = advantages_of(batch)
    rows = conventional.rows_of(world.processor, batch)
    theirs.zero_grad()
    loss, logprobs = conventional.grpo_step(theirs, rows, advantages)
    ours.zero_grad()
    audio = ours.encode_audio(batch)
    with torch.no_grad():
        reference = ours.completion_logprobs(batch, reference=True, audio=audio).logprobs
    scores = ours.completion_logprobs(batch, audio=audio).logprobs
    step = grpo_loss(scores, scores.detach(), reference, advantages, batch.completions.mask)
    step.loss.backward()
    torch.testing.assert_close(scores.detach(), logprobs, atol=1e-4, rtol=0)
    assert step.loss.item() == pytest.approx(loss.item(), abs=1e-5)
    expected, got = gradient(theirs), gradient(ours.model)
    assert expected.norm() > 0
    assert (got - expected).norm() / expected.norm() < 1e-4
    assert (reference - scores).abs().max() > 1e-3  # the adapters say something


def test_sft_step_equals_the_conventional_one(world, models) -> None:
    """Several questions in one row, each with several traces of different lengths."""
    theirs, ours = models
    batch = make_batch(world.processor, [10.0, 2.2], LENGTHS)
    theirs.zero_grad()
    expected_loss = conventional.sft_step(theirs, conventional.rows_of(world.processor, batch))
    ours.zero_grad()
    loss = sft_loss(ours.completion_logprobs(batch).logprobs, batch.completions.mask)
    loss.backward()
    assert loss.item() == pytest.approx(expected_loss.item(), abs=1e-5)
    expected, got = gradient(theirs), gradient(ours.model)
    assert (got - expected).norm() / expected.norm() < 1e-4
