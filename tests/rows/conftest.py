"""The embedded world at its smallest and the embedded endpoints, once for these tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mini.world.endpoints import MiniEndpoints
from tests.embedded import build_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def endpoints() -> Iterator[MiniEndpoints]:
    with MiniEndpoints() as served:
        yield served
