"""A reward that is none names the function, the question and what it gave."""

from typing import Any

import pytest
import torch

from lightning_modules.objectives.reward_checks import RewardError, graded, usable, wanted_facts
from lightning_modules.objectives.rewards import AccuracyReward
from records.records import Question

QUESTION = Question("avqa/train/7", "avqa", "a.mp4", "What is heard?", ("dog", "cat"), 0, "Which")


class Gives:
    name = "mine"

    def __init__(self, value: Any = 0.5) -> None:
        self.value = value

    def __call__(self, completion, question, label):  # no annotations, as README's example has none
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


class Nameless:
    def __call__(self, completion, question, label):
        return 1


class NeedsMore:
    name = "more"

    def __call__(self, completion, question):
        return 1


def length(completion, question, label):
    return len(completion)


def whole(completion, question, label, finished):
    return float(finished)


def test_a_plain_function_is_told_whether_the_completion_came_to_its_end() -> None:
    (function,) = usable([whole])
    assert wanted_facts(function) == ["finished"] and not wanted_facts(usable([length])[0])
    assert [graded(function, "x", QUESTION, None, finished=ended) for ended in (True, False)] == [1.0, 0.0]


@pytest.mark.parametrize("value", [0, 1.5, True, torch.tensor(2.0)])
def test_numbers_are_rewards(value: Any) -> None:
    assert graded(Gives(value), "x", QUESTION, None) == float(value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "returned None"),
        (float("nan"), "returned nan"),
        (float("-inf"), "returned -inf"),
        ("1", "returned '1'"),
        ([1], r"returned \[1\]"),
        (ZeroDivisionError("division by zero"), "raised ZeroDivisionError: division by zero"),
    ],
)
def test_anything_else_is_named(value: Any, said: str) -> None:
    with pytest.raises(RewardError, match=rf"reward function 'mine' {said}.* on question avqa/train/7, 'a bark'"):
        graded(Gives(value), "a bark", QUESTION, None)


def test_classes_instances_and_plain_functions_are_usable() -> None:
    found = usable([AccuracyReward(), Gives, length])
    assert [function.name for function in found] == ["accuracy", "mine", "length"]
    assert [graded(function, "dog", QUESTION, "dog") for function in found] == [1, 0.5, 3]


@pytest.mark.parametrize(
    ("functions", "said"),
    [
        ([Nameless], "Nameless needs a `name`"),
        ([Gives, Gives()], "two reward functions are called 'mine'"),
        ([NeedsMore()], r"NeedsMore must take \(completion, question, label\)"),
    ],
)
def test_what_cannot_be_a_reward_function_is_refused(functions: list[Any], said: str) -> None:
    with pytest.raises(RewardError, match=said):
        usable(functions)
