"""A limit in tokens or money, and what has been spent of it."""

from dataclasses import dataclass

from runtime.errors import UserError


@dataclass(frozen=True)
class BudgetSettings:
    """Prices, and how much a stage may spend, restarts included. At the limit the run stops cleanly.

    Attributes:
        max_tokens: Tokens of requests and completions together; null for no limit.
        max_cost: Money, in the currency of the prices; null for no limit.
        price_prompt: Price of a million tokens of requests.
        price_completion: Price of a million generated tokens.
    """

    max_tokens: int | None = None
    max_cost: float | None = None
    price_prompt: float = 0.0
    price_completion: float = 0.0

    def __post_init__(self) -> None:
        """Check that a limit in money has prices."""
        if self.max_cost is not None and not (self.price_prompt or self.price_completion):
            raise UserError("budget.max_cost needs budget.price_prompt and budget.price_completion")

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return what so many tokens cost."""
        return (prompt_tokens * self.price_prompt + completion_tokens * self.price_completion) / 1e6


class BudgetSpent(Exception):
    """The next request would exceed the budget."""


class Budget:
    """Admits requests as long as those that were answered and those under way fit the limit.

    A request under way counts as much as the mean of those answered, so that the limit is met up to the spread.
    """

    def __init__(self, settings: BudgetSettings, share: float = 1.0, tokens: int = 0, cost: float = 0.0) -> None:
        """Start with what earlier runs spent.

        Args:
            settings: The limits.
            share: This rank's part of what is left.
            tokens: Tokens spent before.
            cost: Money spent before.
        """
        self.settings = settings
        left_tokens = None if settings.max_tokens is None else max(0, settings.max_tokens - tokens)
        left_cost = None if settings.max_cost is None else max(0.0, settings.max_cost - cost)
        self._max_tokens = None if left_tokens is None else left_tokens * share
        self._max_cost = None if left_cost is None else left_cost * share
        self.tokens = 0
        self.cost = 0.0
        self.answered = 0
        self.under_way = 0
        self.exhausted = False

    @property
    def limited(self) -> bool:
        """True when there is a limit."""
        return self._max_tokens is not None or self._max_cost is not None

    def admit(self) -> None:
        """Count a request as under way.

        Raises:
            BudgetSpent: It does not fit any more; no later one does.
        """
        expected = (self.answered + self.under_way + 1) / max(self.answered, 1)
        for limit, spent in ((self._max_tokens, self.tokens), (self._max_cost, self.cost)):
            if limit is not None and (spent >= limit or spent * expected > limit):
                self.exhausted = True
        if self.exhausted:
            raise BudgetSpent
        self.under_way += 1

    def give_back(self) -> None:
        """Count a request as failed: it is not under way any more."""
        self.under_way -= 1

    def settle(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Count a request as answered.

        Args:
            prompt_tokens: Tokens of the request.
            completion_tokens: Tokens generated.

        Returns:
            What it cost.
        """
        cost = self.settings.cost(prompt_tokens, completion_tokens)
        self.under_way -= 1
        self.answered += 1
        self.tokens += prompt_tokens + completion_tokens
        self.cost += cost
        return cost
