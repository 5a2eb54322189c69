"""Rewards against completions that grow without saying more: over a limit, longer than the others, or in circles."""

import torch
from torch import Tensor

from datamodules.batching.batch import AudioQABatch
from lightning_modules.objectives.batch_reward import BatchReward
from lightning_modules.objectives.rewards import AccuracyReward
from records.records import Question
from runtime.errors import UserError, refuse_below


class OverlongPenalty:
    """From 0 down to -1 over the last tokens before the limit (DAPO's soft overlong punishment).

    Yu et al., 2025, arXiv:2503.14476, Eq. 13: 0 up to ``max_tokens - buffer`` tokens, -1 from ``max_tokens`` on, a
    straight line between. It is a reward like any other, to be added to those there are.
    """

    name = "overlong"

    def __init__(self, max_tokens: int, buffer: int) -> None:
        """Draw the line.

        Args:
            max_tokens: Where the penalty is full; as a rule ``max_new_tokens`` of the rollout callback.
            buffer: How many tokens before that it begins.
        """
        if not 0 < buffer <= max_tokens:
            raise UserError(
                f"OverlongPenalty: buffer is {buffer} and max_tokens {max_tokens}; the buffer lies within max_tokens"
            )
        self.max_tokens = max_tokens
        self.buffer = buffer

    def __call__(self, completion: str, question: Question, label: str | None, tokens: int) -> float:
        """Grade one completion; see :class:`.rewards.RewardFunction`."""
        return -min(max((tokens - (self.max_tokens - self.buffer)) / self.buffer, 0.0), 1.0)


class RepetitionPenalty:
    """From 0 down to ``-most`` by the share of n-grams of words that were said before.

    The n-gram penalty of Yeo et al., 2025, arXiv:2502.03373 (appendix), in the form of Open-R1's
    ``get_repetition_penalty_reward``: ``-most * (1 - distinct / all)``; 0 for fewer words than an n-gram has.
    """

    name = "repetition"

    def __init__(self, n: int = 3, most: float = 1.0) -> None:
        """Say what is counted.

        Args:
            n: Words of an n-gram.
            most: Size of the penalty of a completion that only repeats itself.
        """
        refuse_below(1, "RepetitionPenalty: ", n=n)
        refuse_below(0, "RepetitionPenalty: ", most=most)
        self.n = n
        self.most = most

    def __call__(self, completion: str, question: Question, label: str | None) -> float:
        """Grade one completion; see :class:`.rewards.RewardFunction`."""
        words = completion.casefold().split()
        grams = list(zip(*(words[start:] for start in range(self.n)), strict=False))
        return -self.most * (1 - len(set(grams)) / len(grams)) if grams else 0.0


class LengthReward(BatchReward):
    """From 0.5 for the shortest completion of a question to -0.5 for the longest one; a wrong one gets 0 at best.

    Kimi k1.5, arXiv:2501.12599, section 2.3.3: ``l = 0.5 - (tokens - shortest) / (longest - shortest)``, ``min(0, l)``
    where the answer is not the label, and 0 where all are of one length. Give it a weight below 1
    (``objective.reward_weights``), or brevity outweighs the answer.
    """

    name = "length"

    def __init__(self) -> None:
        """Read answers as the reward for accuracy does."""
        self._accuracy = AccuracyReward()

    def grade(self, batch: AudioQABatch) -> Tensor:
        """Grade a batch; see :class:`.batch_reward.BatchReward`."""
        done = batch.completions
        assert done is not None
        tokens = torch.from_numpy(done.lengths).float()
        shortest, longest = tokens.min(-1, keepdim=True).values, tokens.max(-1, keepdim=True).values
        spread = longest - shortest
        length = torch.where(spread > 0, 0.5 - (tokens - shortest) / spread.clamp(min=1), torch.zeros(()))
        right = [
            [bool(self._accuracy(text, question, label, ended)) for text, ended in zip(texts, ends, strict=True)]
            for texts, ends, question, label in zip(
                done.texts, done.finished.tolist(), batch.questions, batch.labels, strict=True
            )
        ]
        return torch.where(torch.tensor(right), length, length.clamp(max=0))
