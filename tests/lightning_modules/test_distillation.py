"""A teacher's term inside a real Trainer, and settings that cannot work."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.batching.batch import AudioQABatch
from datamodules.prompts.questions import PROMPTS, Prompt
from lightning_modules import objectives
from lightning_modules.distillation import OnPolicyDistillation
from lightning_modules.grpo import GRPOModule
from lightning_modules.objectives.objective import Objective
from runtime.errors import UserError
from tests.lightning_modules.test_objectives_in_training import gradients
from tests.lightning_modules.test_training import fit, on_policy, weights_of
from tests.support.students import make_batch

TEACHER = OnPolicyDistillation(teacher_urls=["http://127.0.0.1:1"])
o: Any = objectives


@pytest.fixture
def batch(processor) -> AudioQABatch:
    made = make_batch(processor, [2.0, 0.9, 1.4, 1.0], [[4, 7, 3, 6], [2, 5, 8, 1], [3, 3, 3, 3], [9, 2, 2, 7]])
    made.completions.texts[2] = ["<think>x</think><answer>cat</answer>"] * 3 + ["dog"]
    return made


def scored(module: GRPOModule, batch: AudioQABatch) -> AudioQABatch:
    """The batch as if a teacher had scored all but one question's completions."""
    done = on_policy(module, batch).completions
    gaps = torch.randn(done.ids.shape, generator=torch.Generator().manual_seed(0))
    done.teacher_logprobs = (done.logprobs + 3 * gaps).masked_fill(~done.mask, math.nan)
    done.teacher_logprobs[3] = math.nan
    return batch


def test_without_weight_the_teacher_changes_nothing(weights, batch, tmp_path: Path) -> None:
    plain, watched = (
        GRPOModule(weights, lr=1e-2, num_iterations=2, distillation=chosen)
        for chosen in (None, dataclasses.replace(TEACHER, weight=0.0))
    )
    for module in (plain, watched):
        rows = fit(module, [scored(module, batch)] * 2, tmp_path)
    assert torch.equal(weights_of(plain), weights_of(watched))
    assert rows[0]["train/teacher_weight"] == 0 and rows[0]["train/teacher_kl"] != 0


def test_the_term_by_hand_and_what_is_logged(weights, batch, tmp_path: Path) -> None:
    """With two steps of four taken, half of lambda is left; the loss is minus the mean of A_t over each response."""
    objective = Objective(reward_weights={"accuracy": 0.0, "format": 0.0})
    chosen = dataclasses.replace(TEACHER, weight=0.6, decay_steps=4, clip=2.0)
    module = GRPOModule(weights, beta=0.0, objective=objective, distillation=chosen, micro_batch_size=3)
    rows = fit(module, [scored(module, batch), scored(module, batch), scored(module, batch)], tmp_path)
    assert [row["train/teacher_weight"] for row in rows] == pytest.approx([0.6, 0.45, 0.3])
    done = batch.completions
    gap = (done.teacher_logprobs - done.logprobs)[:3][done.mask[:3]]
    assert rows[0]["train/teacher_tokens"] == len(gap)
    assert rows[0]["train/teacher_kl"] == pytest.approx(-float(gap.mean()), abs=1e-5)
    assert rows[0]["train/teacher_clipped"] == pytest.approx(float(((gap - gap.mean()).abs() > 2).float().mean()))
    term = torch.zeros(done.mask.shape)
    term[:3][done.mask[:3]] = (gap - gap.mean()).clamp(-2, 2)
    responses = (0.6 * term).sum(-1) / done.mask.sum(-1).clamp(min=1)
    assert rows[0]["train/loss"] == pytest.approx(-float(responses.mean()), abs=1e-5)
    assert not module.last_advantages.any()  # the task's own


@pytest.mark.parametrize("average", [o.ResponseMean(), o.TokenMean()], ids=repr)
def test_a_batch_may_be_split(weights, batch, average) -> None:
    module = GRPOModule(weights, objective=Objective(average=average), distillation=TEACHER)
    whole = gradients(module, scored(module, batch))
    module.settings = dataclasses.replace(module.settings, micro_batch_size=1)
    torch.testing.assert_close(gradients(module, batch), whole, atol=2e-5, rtol=1e-3)
    plain = GRPOModule(weights, objective=Objective(average=average))
    assert not torch.allclose(gradients(plain, batch), whole, atol=1e-4)


def test_nobody_asked_the_teacher(weights, batch, tmp_path: Path) -> None:
    module = GRPOModule(weights, distillation=TEACHER)
    with pytest.raises(UserError, match="nobody has asked it to score the rollouts"):
        fit(module, [on_policy(module, batch)], tmp_path)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"weight": -1.0}, "model.distillation.weight is -1"),
        ({"decay_steps": 0}, "model.distillation.decay_steps is 0"),
        ({"clip": 0.0}, "model.distillation.clip is 0"),
        ({"prompt": "think"}, "model.distillation.prompt must be one of teacher-direct"),
        ({"prompt": PROMPTS["think"]}, "speaks of audio, and the teacher sees frames"),
        ({"prompt": Prompt("x", "{question}{options}{hint}", modalities="video")}, "wants a hint"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        dataclasses.replace(TEACHER, **settings)


def test_servers_score_at_temperature_one(weights) -> None:
    with pytest.raises(UserError, match="student and teacher would be compared at two temperatures"):
        GRPOModule(weights, temperature=0.7, distillation=TEACHER)


@pytest.mark.parametrize("setting", ["max_resamples", "spare_prompts"])
def test_no_question_is_dead_for_a_teacher(weights: str, setting: str) -> None:
    with pytest.raises(UserError, match=r"leave model\.max_resamples and model\.spare_prompts at 0"):
        GRPOModule(weights, distillation=TEACHER, **{setting: 1})
