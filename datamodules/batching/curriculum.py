"""Questions drawn by how often the student answers them rightly: most often those that it answers every other time."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class CurriculumSettings:
    """How questions are drawn by their success rates.

    Attributes:
        every_n_batches: Batches that are drawn at once, a round.
        momentum: Share of a question's running success rate that stays when it is answered again, from 0 to below 1.
        floor: Smallest weight of a question, above 0; the largest is 1.
    """

    every_n_batches: int = 50
    momentum: float = 0.5
    floor: float = 0.1


class Curriculum:
    """Running success rates, and the draws that follow from them.

    A round is drawn from the rates at the beginning of the round before it, which are known when loaders, whose workers
    run ahead of training, ask for it. So a draw depends on the seed and on what was trained on, and not on when it is
    made; the first two rounds of an epoch are drawn from the rates at its beginning.

    Attributes:
        settings: How questions are drawn.
        rates: Running success rate of each question by its id, from 0 to 1.
    """

    def __init__(self, settings: CurriculumSettings) -> None:
        """Begin without rates: all questions weigh the same."""
        self.settings = settings
        self.rates: dict[str, float] = {}
        self._kept: dict[int, dict[str, float]] = {0: {}}

    def begin_epoch(self) -> None:
        """Keep the rates with which an epoch begins."""
        self._kept = {0: dict(self.rates)}

    def add(self, answered: Iterable[tuple[str, float]], batches: int) -> None:
        """Take up what a batch of all ranks was worth.

        Args:
            answered: Questions by id, and which share of their completions was right.
            batches: Batches of the epoch that are trained now.
        """
        momentum = self.settings.momentum
        for question, success in answered:
            known = self.rates.get(question)
            self.rates[question] = success if known is None else momentum * known + (1 - momentum) * success
        size = self.settings.every_n_batches
        if batches % size == 0:
            self._kept = {at: rates for at, rates in self._kept.items() if at >= batches - size}
            self._kept[batches] = dict(self.rates)

    def draw(self, ids: Sequence[str], count: int, seed: int, epoch: int, number: int) -> list[int]:
        """Draw the questions of a round, none of them twice.

        A question's weight is ``max(floor, 4 p (1 - p))``, with p its success rate: in proportion to the variance of a
        right-or-wrong reward, which is what a group's advantages are made of; 1 while the question is unknown.

        Args:
            ids: All questions.
            count: How many are drawn, at most all.
            seed: Seed of the order of training.
            epoch: The epoch.
            number: The round, from 0 in each epoch.

        Returns:
            Their places in ``ids``.
        """
        rates = self._kept[max(0, number - 1) * self.settings.every_n_batches]
        weights = [weight(rates.get(question), self.settings.floor) for question in ids]
        return draw_by_weight(weights, count, f"{seed}/{epoch}/{number}/curriculum")

    def state(self) -> dict[str, Any]:
        """Return what a resumed run must know."""
        return {"rates": dict(self.rates), "kept": {at: dict(rates) for at, rates in self._kept.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        self.rates = dict(state["rates"])
        self._kept = {int(at): dict(rates) for at, rates in state["kept"].items()}


def weight(rate: float | None, floor: float) -> float:
    """Return how often a question is drawn, against one that is answered every other time.

    Args:
        rate: Its success rate; None while it is unknown.
        floor: The smallest weight.
    """
    return 1.0 if rate is None else max(floor, 4 * rate * (1 - rate))


def draw_by_weight(weights: Sequence[float], count: int, seed: str) -> list[int]:
    """Draw places one after another in proportion to their weights, none of them twice.

    The largest of ``log w + Gumbel noise`` are such a draw (Efraimidis and Spirakis, 2006; Kool et al., 2019,
    arXiv:1903.06059).

    Args:
        weights: Above 0.
        count: How many.
        seed: Decides alone what is drawn.
    """
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7]))
    uniform = torch.rand(len(weights), generator=generator, dtype=torch.float64).clamp_(1e-300, 1 - 1e-16)
    keys = torch.tensor(weights, dtype=torch.float64).log() - torch.log(-torch.log(uniform))
    return keys.argsort(descending=True, stable=True)[:count].tolist()
