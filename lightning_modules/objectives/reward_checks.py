"""Reward functions of users: what they must be, and what they may return."""

import contextlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from records.records import Question
from runtime.errors import UserError

FACTS = ("finished", "tokens")
"""Further parameters that a reward function may have: whether the completion came to its end, and how many tokens it
has, the end token included."""

Reward = Callable[[str, Question, str | None], float]
"""Grades a completion, given its question and the text of the option that is to be rewarded (or None)."""


class RewardError(UserError):
    """A reward function cannot be used, or gave something that is no reward."""


class NamedReward:
    """A plain function as a reward function."""

    def __init__(self, function: Reward, name: str) -> None:
        """Give a function a name.

        Args:
            function: The function.
            name: Its name in the metrics.
        """
        self.function = function
        self.name = name
        with contextlib.suppress(ValueError, TypeError):  # built in, without a signature
            self.__signature__ = inspect.signature(function)

    def __call__(self, completion: str, question: Question, label: str | None, **facts: Any) -> float:
        """Grade one completion."""
        return self.function(completion, question, label, **facts)


def usable(functions: Sequence[Any]) -> list[Any]:
    """Return reward functions of which each has a name of its own and takes a completion, its question and a label.

    Args:
        functions: Instances or classes with ``name`` and ``__call__``, whatever their annotations, or plain functions.

    Raises:
        RewardError: One has no name, another's name, or takes something else.
    """
    found: list[Any] = []
    for given in functions:
        shown = getattr(given, "__qualname__", type(given).__qualname__)
        try:
            function = given() if isinstance(given, type) else given
        except TypeError as error:
            raise RewardError(f"reward function {shown} cannot be made without settings: {error}") from error
        if inspect.isroutine(function) and not hasattr(function, "name"):
            function = NamedReward(function, function.__name__)
        name = getattr(function, "name", None)
        if not isinstance(name, str) or not name:
            raise RewardError(f"reward function {shown} needs a `name`, a text under which its mean is logged")
        if name in (other.name for other in found):
            raise RewardError(f"two reward functions are called {name!r}: each needs a name of its own")
        _check_call(function, shown)
        found.append(function)
    return found


def weights_of(functions: Sequence[Any], weights: Mapping[str, float]) -> Tensor:
    """Return how much each reward function counts ``[R]``, 1 unless its name is given another weight.

    Args:
        functions: The reward functions.
        weights: Weights by name.

    Raises:
        RewardError: There is no reward function of such a name.
    """
    names = [function.name for function in functions]
    for name in weights:
        if name not in names:
            raise RewardError(
                f"model.objective.reward_weights names {name!r}: the reward functions are {', '.join(names)}"
            )
    return torch.tensor([float(weights.get(name, 1.0)) for name in names])


def graded(function: Any, completion: str, question: Question, label: str | None, **facts: Any) -> float:
    """Return a reward function's reward of a completion.

    Args:
        function: The reward function.
        completion: What it grades.
        question: The question that was asked.
        label: The option that is to be rewarded, or None.
        **facts: What else it wants to know (:func:`wanted_facts`).

    Raises:
        RewardError: It raised, or did not return a finite number.
    """
    try:
        value = function(completion, question, label, **facts)
    except Exception as error:
        raise _about(function, completion, question, f"raised {type(error).__name__}: {error}") from error
    try:
        number = math.nan if value is None or isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not math.isfinite(number):
        raise _about(function, completion, question, f"returned {_short(value)}, which is no finite number,")
    return number


def _about(function: Any, completion: str, question: Question, what: str) -> RewardError:
    return RewardError(f"reward function {function.name!r} {what} on question {question.id}, {_short(completion)}")


def wanted_facts(function: Any) -> list[str]:
    """Return which of :data:`FACTS` a reward function has parameters for.

    Args:
        function: The reward function.
    """
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        return []  # something built in, which has no signature to look at
    return [fact for fact in FACTS if fact in parameters]


def _check_call(function: Any, shown: str) -> None:
    try:
        inspect.signature(function).bind("", None, None, **dict.fromkeys(wanted_facts(function)))
    except TypeError as error:
        raise RewardError(
            f"reward function {shown} must take (completion, question, label) in these places: {error}"
        ) from error
    except ValueError:
        return  # something built in, which has no signature to look at


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:120] + "..."
