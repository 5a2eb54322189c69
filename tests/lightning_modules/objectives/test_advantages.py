import math

import pytest
import torch

from lightning_modules.objectives.advantages import (
    GDPO,
    GroupCentred,
    GroupNormalised,
    frac_reward_zero_std,
    group_relative_advantages,
)


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


REWARDS = torch.tensor([[[1.0, 0.0, 0.0, 1.0]], [[0.0, 2.0, 0.0, 0.0]]])  # two functions, one question
ONE_EACH = torch.ones(2)


def test_weighted_rewards_by_hand() -> None:
    # 3 * (1, 0, 0, 1) + 1 * (0, 2, 0, 0) = (3, 2, 0, 3): mean 2; deviation sqrt((1 + 0 + 4 + 1) / 4) = sqrt(3/2)
    weights = torch.tensor([3.0, 1.0])
    centred = torch.tensor([[1.0, 0.0, -2.0, 1.0]])
    torch.testing.assert_close(GroupCentred()(REWARDS, weights, lambda x: x), centred)
    torch.testing.assert_close(GroupNormalised()(REWARDS, weights, lambda x: x), centred / math.sqrt(1.5))


def test_each_reward_normalised_by_itself_by_hand() -> None:
    # first: mean 1/2, deviation 1/2: (1, -1, -1, 1). second: mean 1/2, deviation sqrt(3)/2: (-1, 3, -1, -1)/sqrt(3)
    # with weights 1 and 2, s = 2/sqrt(3): (1 - s, 3 s - 1, -1 - s, 1 - s), by the root of their mean square
    s = 2 / math.sqrt(3)
    total = torch.tensor([[1 - s, 3 * s - 1, -1 - s, 1 - s]])
    root = math.sqrt((2 * (1 - s) ** 2 + (3 * s - 1) ** 2 + (1 + s) ** 2) / 4)
    found = GDPO()(REWARDS, torch.tensor([1.0, 2.0]), lambda x: x)
    torch.testing.assert_close(found, total / root, atol=1e-6, rtol=0)


def test_what_a_sum_takes_for_the_same_is_told_apart() -> None:
    rewards = torch.tensor([[[2.0, 1.0, 0.0]], [[0.0, 1.0, 0.0]]])  # sums 2, 2, 0
    summed, apart = (make(rewards, ONE_EACH, lambda x: x)[0] for make in (GroupNormalised(), GDPO()))
    assert summed[0] == summed[1] and apart[1] > apart[0] + 0.1


@pytest.mark.parametrize("advantages", [GroupNormalised(), GroupCentred(), GDPO()], ids=repr)
def test_ranks_make_of_their_questions_what_one_would(advantages) -> None:
    rewards = torch.randint(0, 3, (2, 6, 4), generator=torch.Generator().manual_seed(0)).float()
    whole = advantages(rewards, ONE_EACH, lambda x: x)
    parts = rewards.split(3, dim=1)
    seen: list[torch.Tensor] = []
    for part in parts:  # what each rank would give to the mean
        advantages(part, ONE_EACH, lambda x: seen.append(x) or x)
    mean = torch.stack(seen).mean() if seen else None
    both = torch.cat([advantages(part, ONE_EACH, lambda _: mean) for part in parts])
    torch.testing.assert_close(both, whole)


def test_nothing_to_tell_apart_is_zero() -> None:
    for advantages in (GroupNormalised(), GroupCentred(), GDPO()):
        assert advantages(torch.ones(2, 3, 4), ONE_EACH, lambda x: x).abs().sum() == 0


def test_dead_groups() -> None:
    # summed, the first and second question's rewards are all alike; each by itself, those of the second differ
    rewards = torch.tensor([[[1.0, 1.0], [2.0, 1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    weights = torch.ones(2)
    for advantages in (GroupNormalised(), GroupCentred()):
        assert advantages.dead_groups(rewards, weights).tolist() == [True, True, False]
    assert GDPO().dead_groups(rewards, weights).tolist() == [True, False, False]
    assert GDPO().dead_groups(rewards, torch.tensor([0.0, 1.0])).tolist() == [True, False, True]
