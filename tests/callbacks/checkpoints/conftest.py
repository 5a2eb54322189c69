"""A process group of one rank, which is what code for many needs to run in this process."""

from collections.abc import Iterator

import pytest
from torch import distributed


@pytest.fixture
def one_rank() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()
