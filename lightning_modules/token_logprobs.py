"""Log-probabilities of chosen tokens without the logits of all rows in memory at once."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 1 << 24
"""Largest number of logits (rows x vocabulary) that are held at a time: 64 MiB in float32."""


def token_logprobs(
    hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Score chosen tokens from the hidden states that predict them.

    The head runs on chunks of rows; where there are several chunks and a gradient is wanted, each chunk's logits are
    computed again in the backward pass instead of being kept.

    Args:
        hidden: Hidden states ``[N, H]``.
        targets: Token ids ``[N]``.
        head: Maps ``[n, H]`` to logits ``[n, V]``.
        temperature: Divides the logits; the distribution is that of sampling at this temperature.

    Returns:
        Log-probabilities ``[N]`` and entropies ``[N]`` in float32, in nats; the entropies carry no gradient.
    """

    def score(rows: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(rows).float()
        if temperature != 1.0:
            logits = logits / temperature
        normaliser = logits.logsumexp(-1)
        logprobs = logits.gather(-1, chosen[:, None])[:, 0] - normaliser
        with torch.no_grad():
            entropy = normaliser - (torch.softmax(logits, -1) * logits).sum(-1)
        return logprobs, entropy

    if hidden.shape[0] == 0:
        empty = hidden.new_zeros(0, dtype=torch.float32)
        return empty + hidden.float().sum(), empty
    with torch.no_grad():
        vocabulary = head(hidden[:1]).shape[-1]
    rows_at_once = max(1, LOGITS_AT_ONCE // vocabulary)
    if hidden.shape[0] <= rows_at_once:
        return score(hidden, targets)
    scored = [
        checkpoint(score, rows, chosen, use_reentrant=False) if torch.is_grad_enabled() else score(rows, chosen)
        for rows, chosen in zip(hidden.split(rows_at_once), targets.split(rows_at_once), strict=True)
    ]
    return torch.cat([logprobs for logprobs, _ in scored]), torch.cat([entropy for _, entropy in scored])
