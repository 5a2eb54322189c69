"""Temperature scaling: probabilities that mean what they say (Guo et al., 2017)."""

import torch
from torch import Tensor


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature T for which ``sigmoid(logits / T)`` has the least cross-entropy.

    Args:
        logits: Logits on verdicts that were held out of training ``[N]``.
        labels: The verdicts, 0 or 1 ``[N]``.
    """
    logits, labels = logits.detach().double(), labels.detach().double()
    with torch.enable_grad():
        log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = torch.nn.functional.binary_cross_entropy_with_logits(logits / log_temperature.exp(), labels)
            value.backward()
            return value

        optimizer.step(loss)
    return float(log_temperature.detach().clamp(-5, 5).exp())
