"""Reward functions of users: what they must be, and what they may return."""

import contextlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.batching.batch import AudioQABatch
from lightning_modules.objectives.batch_reward import BatchReward
from records.records import Question
from runtime.errors import UserError

FACTS = ("finished", "tokens", "waveform")
"""Further parameters that a reward function may have: whether the completion came to its end, how many tokens it has,
the end token included, and the samples of the clip."""

LARGEST = 1e15
"""Size of a reward beyond which its square is lost in float32, and with it the spread of the group."""

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
        if not isinstance(function, BatchReward):
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
    if abs(number) > LARGEST:
        raise _about(function, completion, question, f"returned {_short(value)}, too large to compute with,")
    return number


def graded_batch(function: BatchReward, batch: AudioQABatch) -> Tensor:
    """Return the rewards ``[B, G]`` of a reward function that grades a batch at once, in main memory.

    Args:
        function: The reward function.
        batch: Questions with completions.

    Raises:
        RewardError: It raised, or did not return ``[B, G]`` finite numbers.
        UserError: What it raised itself, where that says what to do.
    """
    done = batch.completions
    assert done is not None
    questions = batch.questions
    which = questions[0].id + (f" and {len(questions) - 1} others" if len(questions) > 1 else "")
    try:
        value = function.grade(batch)
    except UserError:
        raise
    except Exception as error:
        said = f"raised {type(error).__name__}: {error}"
        raise RewardError(f"reward function {function.name!r} {said} on a batch of question {which}") from error
    shape = (len(questions), len(done.texts[0]))
    found = tuple(value.shape) if isinstance(value, Tensor) else None
    if found != shape or value.is_complex():
        what = _short(value) if found is None else f"a tensor of shape {list(found)} and type {value.dtype}"
        raise RewardError(
            f"reward function {function.name!r} returned {what} for a batch of question {which}: it must return "
            f"a tensor with a number for each completion, of shape {list(shape)}"
        )
    rewards = value.detach().to("cpu", torch.float32)
    bad = (~(rewards.abs() <= LARGEST)).nonzero()
    if len(bad):
        b, g = bad[0].tolist()
        what = f"returned {rewards[b, g].item():g}, which is no number to compute with,"
        raise _about(function, done.texts[b][g], questions[b], what)
    return rewards


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
