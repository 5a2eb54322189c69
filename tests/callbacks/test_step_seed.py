"""Random numbers of a batch depend on its place alone."""

import random

import numpy as np
import torch

from callbacks.step_seed import seed_batch


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_the_same_place_gives_the_same_numbers() -> None:
    seed_batch(3, 1, 20, 0)
    first = draw()
    draw()
    seed_batch(3, 1, 20, 0)
    assert draw() == first


def test_every_part_of_the_place_matters() -> None:
    drawn = set()
    for place in ((3, 1, 20, 0), (4, 1, 20, 0), (3, 2, 20, 0), (3, 1, 21, 0), (3, 1, 20, 1), (3, 20, 1, 0)):
        seed_batch(*place)
        drawn.update(draw())
    assert len(drawn) == 6 * 3
