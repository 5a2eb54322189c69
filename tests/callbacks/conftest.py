"""The embedded world at its smallest, once for these tests."""

from pathlib import Path

import pytest

from tests.embedded import build_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("world"))
