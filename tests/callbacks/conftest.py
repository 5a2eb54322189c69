"""The embedded world at its smallest, once for these tests."""

from pathlib import Path

import pytest

from tests.embedded import build_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session", autouse=True)
def _wandb_stays_here(tmp_path_factory: pytest.TempPathFactory):
    """Keep what wandb stages out of the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_SILENT", "true")
        for kind in ("DATA", "CACHE", "CONFIG"):
            patch.setenv(f"WANDB_{kind}_DIR", str(tmp_path_factory.mktemp("wandb")))
        yield
