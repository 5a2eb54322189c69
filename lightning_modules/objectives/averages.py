"""From a value for each token to one number: how responses of different lengths are weighed against each other."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from runtime.errors import refuse_below


class Counts(NamedTuple):
    """What a batch holds in all, known before its micro-batches, so that their losses add up to that of the batch.

    Attributes:
        responses: B * G, responses of the batch on this rank.
        tokens: Tokens of the batch that the loss is made of, mean over ranks: where gradients are averaged over ranks,
            each token then weighs as much as any other of all ranks.
    """

    responses: int
    tokens: Tensor | float = 1.0


def response_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average over each response's own tokens: ``[B, G, C] -> [B, G]``; zero for an empty response."""
    return (values * mask).sum(-1) / mask.sum(-1).clamp(min=1)


class Average(ABC):
    """How the tokens' values become one.

    Attributes:
        of_all_tokens: Whether :attr:`Counts.tokens` is asked for, for which ranks must count together.
    """

    of_all_tokens: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, values: Tensor, mask: Tensor, counts: Counts) -> Tensor:
        """Return a micro-batch's part of the average.

        Args:
            values: One of each token ``[B, G, C]``.
            mask: True on tokens that count ``[B, G, C]``.
            counts: What the whole batch holds.
        """


@dataclass(frozen=True)
class ResponseMean(Average):
    """``1/G sum_i 1/|o_i| sum_t``, mean over questions: each response weighs the same (paper, Eq. 2)."""

    def __call__(self, values: Tensor, mask: Tensor, counts: Counts) -> Tensor:
        """See :class:`Average`."""
        return response_mean(values, mask).sum() / counts.responses


@dataclass(frozen=True)
class TokenMean(Average):
    """``sum_i sum_t / sum_i |o_i|`` over the batch of all ranks: each token weighs the same.

    DAPO (Yu et al., 2025, arXiv:2503.14476, section 3.3) as its authors' code computes it; their Eq. 8 has the same
    for each question by itself, which is :class:`GroupTokenMean`.
    """

    of_all_tokens: ClassVar[bool] = True

    def __call__(self, values: Tensor, mask: Tensor, counts: Counts) -> Tensor:
        """See :class:`Average`."""
        return (values * mask).sum() / counts.tokens


@dataclass(frozen=True)
class GroupTokenMean(Average):
    """``sum_i sum_t / sum_i |o_i|`` over a question's responses, mean over questions (DAPO, Eq. 8, to the letter)."""

    def __call__(self, values: Tensor, mask: Tensor, counts: Counts) -> Tensor:
        """See :class:`Average`."""
        questions = counts.responses / values.shape[1]
        return ((values * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)).sum() / questions


@dataclass(frozen=True)
class ConstantLength(Average):
    """``1/G sum_i 1/length sum_t``: no response is favoured for its length (Dr. GRPO; Liu et al., 2025).

    arXiv:2503.20783, section 3.2 and listing 1: the divisor is the same for all, such as the longest that may be
    sampled.

    Attributes:
        length: The divisor, in tokens; as a rule ``max_new_tokens`` of the rollout callback.
    """

    length: int

    def __post_init__(self) -> None:
        refuse_below(1, "model.objective.average.", length=self.length)

    def __call__(self, values: Tensor, mask: Tensor, counts: Counts) -> Tensor:
        """See :class:`Average`."""
        return (values * mask).sum() / (counts.responses * self.length)
