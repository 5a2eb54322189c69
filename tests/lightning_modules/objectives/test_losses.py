"""Objectives against numbers worked out by hand and against a literal transcription of Eq. 2."""

import math

import pytest
import torch

from lightning_modules.objectives.averages import response_mean
from lightning_modules.objectives.importance import TokenTruncation
from lightning_modules.objectives.kl import K3
from lightning_modules.objectives.losses import grpo_loss, sft_loss


def test_sft_loss_is_the_mean_over_target_tokens() -> None:
    # tokens with probabilities 1/2, 1/4 and 1/8 count, the fourth is masked: (ln 2 + ln 4 + ln 8) / 3 = 2 ln 2
    logprobs = torch.tensor([[[0.5, 0.25], [0.125, 0.9]]]).log()
    mask = torch.tensor([[[True, True], [True, False]]])
    assert sft_loss(logprobs, mask).item() == pytest.approx(2 * math.log(2), abs=1e-6)


def test_sft_loss_takes_a_shared_token_count() -> None:
    logprobs = torch.tensor([[[0.5, 0.25]]]).log()  # -(ln 1/2 + ln 1/4) / 6 = ln 2 / 2
    loss = sft_loss(logprobs, torch.ones(1, 1, 2, dtype=torch.bool), 6.0)
    assert loss.item() == pytest.approx(math.log(2) / 2, abs=1e-6)


def test_kl_k3_by_hand() -> None:
    # reference twice as likely: e^ln2 - ln2 - 1 = 1 - ln 2; equal: 0; half as likely: 1/2 + ln 2 - 1
    policy = torch.tensor([0.25, 0.5, 0.5]).log()
    reference = torch.tensor([0.5, 0.5, 0.25]).log()
    expected = torch.tensor([1 - math.log(2), 0.0, math.log(2) - 0.5])
    torch.testing.assert_close(K3()(policy, reference), expected, atol=1e-6, rtol=0)


def test_response_mean_ignores_padding() -> None:
    values = torch.tensor([[[1.0, 3.0, 100.0], [5.0, 100.0, 100.0]]])
    mask = torch.tensor([[[True, True, False], [True, False, False]]])
    torch.testing.assert_close(response_mean(values, mask), torch.tensor([[2.0, 5.0]]))


def test_grpo_loss_by_hand() -> None:
    # two responses of one question, epsilon 0.2, beta 0.1
    # response 1 (advantage +1): ratios 1.5 (clipped to 1.2) and 0.5 (min(0.5, 0.8) = 0.5); KL: reference = policy -> 0
    #   mean of 1.2 and 0.5 = 0.85
    # response 2 (advantage -2), one token: ratio 0.5, clipped to 0.8; min(-1.0, -1.6) = -1.6;
    #   reference twice as likely: KL = 1 - ln 2 -> -1.6 - 0.1 (1 - ln 2)
    # loss = -(0.85 - 1.6 - 0.1 (1 - ln 2)) / 2
    old = torch.tensor([[[0.4, 0.4], [0.4, 0.4]]]).log()
    new = torch.tensor([[[0.6, 0.2], [0.2, 0.7]]]).log()
    reference = torch.tensor([[[0.6, 0.2], [0.4, 0.1]]]).log()
    mask = torch.tensor([[[True, True], [True, False]]])
    terms = grpo_loss(new, old, reference, torch.tensor([[1.0, -2.0]]), mask, epsilon=0.2, beta=0.1)
    assert terms.loss.item() == pytest.approx((0.75 + 0.1 * (1 - math.log(2))) / 2, abs=1e-6)
    assert terms.kl.item() == pytest.approx((1 - math.log(2)) / 2, abs=1e-6)
    assert terms.clip_ratio.item() == pytest.approx(2 / 3, abs=1e-6)  # the first token and the only one of response 2
    assert terms.ratio_max.item() == pytest.approx(1.5, abs=1e-6)


def test_on_policy_ratio_is_one_and_nothing_is_clipped() -> None:
    logprobs = torch.randn(2, 3, 4).abs().neg().requires_grad_()
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    advantages = torch.randn(2, 3)
    terms = grpo_loss(logprobs, logprobs.detach(), logprobs.detach(), advantages, mask)
    assert terms.clip_ratio.item() == 0
    assert terms.ratio_max.item() == 1
    assert terms.loss.item() == pytest.approx(-advantages.mean().item(), abs=1e-6)


def literal_eq2(new, old, reference, rewards, mask, epsilon, beta):  # type: ignore[no-untyped-def]
    """Eq. 2 written out with loops, as in the paper."""
    questions = []
    for q in range(len(rewards)):
        group = rewards[q]
        mean = sum(group) / len(group)
        std = math.sqrt(sum((r - mean) ** 2 for r in group) / len(group))
        total = 0.0
        for i, reward in enumerate(group):
            advantage = 0.0 if std == 0 else (reward - mean) / std
            length = int(mask[q, i].sum())
            response = 0.0
            for t in range(length):
                ratio = torch.exp(new[q, i, t] - old[q, i, t])
                clipped = torch.clamp(ratio, 1 - epsilon, 1 + epsilon)
                surrogate = torch.min(ratio * advantage, clipped * advantage)
                quotient = torch.exp(reference[q, i, t] - new[q, i, t])
                response = response + surrogate - beta * (quotient - torch.log(quotient) - 1)
            total = total + response / length
        questions.append(total / len(group))
    return -sum(questions) / len(questions)


@pytest.mark.parametrize("seed", range(5))
def test_gradients_equal_those_of_the_literal_equation(seed: int) -> None:
    from lightning_modules.objectives.advantages import group_relative_advantages

    generator = torch.Generator().manual_seed(seed)
    shape = (3, 4, 6)
    new = (-torch.rand(shape, generator=generator, dtype=torch.float64) * 3).requires_grad_()
    old = new.detach() + 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    reference = new.detach() + 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, 7, shape[:2], generator=generator)
    mask = torch.arange(6) < lengths[..., None]
    rewards = torch.randint(0, 3, shape[:2], generator=generator).double()
    rewards[0] = 1.0  # a group without variance
    expected = literal_eq2(new, old, reference, rewards.tolist(), mask, 0.2, 0.04)
    (expected_gradient,) = torch.autograd.grad(expected, new)
    loss = grpo_loss(new, old, reference, group_relative_advantages(rewards), mask, 0.2, 0.04).loss
    (gradient,) = torch.autograd.grad(loss, new)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-9, rtol=1e-9)
    assert gradient[~mask].abs().sum() == 0


def test_micro_batches_add_up_to_the_whole() -> None:
    generator = torch.Generator().manual_seed(3)
    new, old, reference = (-torch.rand(4, 2, 5, generator=generator) for _ in range(3))
    mask = torch.arange(5) < torch.randint(1, 6, (4, 2), generator=generator)[..., None]
    advantages = torch.randn(4, 2, generator=generator)
    whole = grpo_loss(new, old, reference, advantages, mask).loss
    parts = [
        grpo_loss(new[s], old[s], reference[s], advantages[s], mask[s], responses=8).loss
        for s in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_padding_cannot_poison_the_loss() -> None:
    new = torch.zeros(1, 1, 2, requires_grad=True)
    old = torch.tensor([[[0.0, -1e4]]])
    mask = torch.tensor([[[True, False]]])
    loss = grpo_loss(new, old, old, torch.ones(1, 1), mask).loss
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(new.grad).all()


def test_importance_weights_by_hand() -> None:
    # old policy 0.6, 0.3, 0.2, 0.9 over behaviour 0.2, 0.3, 0.4, (masked) -> 3 (truncated to 2), 1, 1/2, 1
    old = torch.tensor([[[0.6, 0.3], [0.2, 0.9]]]).log()
    behaviour = torch.tensor([[[0.2, 0.3], [0.4, 0.01]]]).log()
    mask = torch.tensor([[[True, True], [True, False]]])
    weights, truncated = TokenTruncation(2.0)(old, behaviour, mask)
    torch.testing.assert_close(weights, torch.tensor([[[2.0, 1.0], [0.5, 1.0]]]))
    assert truncated.item() == pytest.approx(1 / 3)


def test_stale_rollouts_by_hand() -> None:
    # first step (ratio 1, no KL): response 1 (advantage 1) has weights 2 and 1, mean 1.5; response 2 (advantage -1) 1/2
    # loss = -(1.5 - 0.5) / 2 = -0.5; its gradient by the logprobs is -weight * advantage / (2 responses * tokens)
    logprobs = torch.tensor([[[0.6, 0.3], [0.2, 0.9]]]).log().requires_grad_()
    behaviour = torch.tensor([[[0.2, 0.3], [0.4, 0.01]]]).log()
    mask = torch.tensor([[[True, True], [True, False]]])
    old = logprobs.detach()
    weights, _ = TokenTruncation(2.0)(old, behaviour, mask)
    loss = grpo_loss(logprobs, old, old, torch.tensor([[1.0, -1.0]]), mask, importance=weights).loss
    loss.backward()
    assert loss.item() == pytest.approx(-0.5, abs=1e-6)
    torch.testing.assert_close(logprobs.grad, torch.tensor([[[-0.5, -0.25], [0.25, 0.0]]]))
