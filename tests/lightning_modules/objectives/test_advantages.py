import math

import torch

from lightning_modules.objectives.advantages import frac_reward_zero_std, group_relative_advantages


def test_by_hand() -> None:
    # rewards 0, 2: mean 1, deviation 1. rewards 0, 0, ... see the second group: 2, 1, 0, 1: mean 1, deviation sqrt(1/2)
    torch.testing.assert_close(group_relative_advantages(torch.tensor([[0.0, 2.0]])), torch.tensor([[-1.0, 1.0]]))
    root = math.sqrt(2)
    torch.testing.assert_close(
        group_relative_advantages(torch.tensor([[2.0, 1.0, 0.0, 1.0]])), torch.tensor([[root, 0.0, -root, 0.0]])
    )


def test_a_group_without_variance_gets_zero_and_is_counted() -> None:
    rewards = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 2.0], [0.1, 0.1, 0.1], [0.0, 0.0, 0.0]])
    advantages = group_relative_advantages(rewards)
    assert advantages[[0, 2, 3]].abs().sum() == 0
    assert frac_reward_zero_std(rewards).item() == 0.75


def test_groups_do_not_touch_each_other() -> None:
    first = torch.tensor([[0.0, 1.0, 2.0]])
    both = torch.cat([first, torch.tensor([[100.0, 0.0, 7.0]])])
    torch.testing.assert_close(group_relative_advantages(both)[:1], group_relative_advantages(first))
