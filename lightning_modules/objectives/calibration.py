"""Temperature scaling with an offset: probabilities that mean what they say (Platt, 1999; Guo et al., 2017)."""

import torch
from torch import Tensor


def fit_temperature(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return temperature T and offset b for which ``sigmoid(logits / T + b)`` has the least cross-entropy.

    The offset corrects the share of accepted traces, which differs from that in training where mismatched pairs were
    added. It changes no order, so that AUROC stays what it is.

    Args:
        logits: Logits on verdicts that were held out of training ``[N]``.
        labels: The verdicts, 0 or 1 ``[N]``.
    """
    logits, labels = logits.detach().double(), labels.detach().double()
    with torch.enable_grad():
        log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
        offset = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([log_temperature, offset], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            scaled = logits / log_temperature.exp() + offset
            # a weak pull towards no change keeps a perfect separation from making the probabilities 0 and 1
            value = torch.nn.functional.binary_cross_entropy_with_logits(scaled, labels)
            value = value + 1e-3 * (log_temperature.square() + offset.square())
            value.backward()
            return value

        optimizer.step(loss)
    return float(log_temperature.detach().exp()), float(offset.detach())
