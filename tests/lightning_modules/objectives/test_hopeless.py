"""Responses that no weight can correct, by hand."""

import math

import torch

from lightning_modules.objectives.hopeless import hopeless


def test_the_product_over_tokens_decides_either_way() -> None:
    behaviour = torch.zeros(1, 5, 3)
    ratios = torch.tensor([[[2.0, 2.0, 2.4], [2.0, 2.0, 2.6], [0.3, 0.3, 1.0], [0.4, 0.3, 1.0], [9.0, 1.0, 9.0]]])
    mask = torch.tensor([[[True] * 3] * 4 + [[True, True, False]]])
    # products 9.6, 10.4, 0.09, 0.12, and 9 without what is no token
    assert hopeless(ratios.log(), behaviour, mask, 10.0).tolist() == [[False, True, True, False, False]]


def test_long_responses_do_not_overflow() -> None:
    mask = torch.ones(1, 1, 512, dtype=torch.bool)
    assert hopeless(torch.zeros(1, 1, 512), torch.full((1, 1, 512), -math.log(8.0)), mask, 1e6).all()
