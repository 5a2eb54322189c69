"""Nothing is left in the home folder."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _wandb_stays_here(tmp_path_factory: pytest.TempPathFactory):
    """Keep what wandb stages out of the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_SILENT", "true")
        for kind in ("DATA", "CACHE", "CONFIG"):
            patch.setenv(f"WANDB_{kind}_DIR", str(tmp_path_factory.mktemp("wandb")))
        yield
