"""A tiny student."""

import pytest
from transformers import AutoProcessor

from tests.support.students import ARCHITECTURES

SECONDS = 2


@pytest.fixture(scope="session")
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a tiny random student that hears two seconds; a Qwen2-Audio unless a test asks for another."""
    build = ARCHITECTURES[getattr(request, "param", "qwen2_audio")]
    return str(build(tmp_path_factory.mktemp("student"), seconds=SECONDS))


@pytest.fixture(scope="session")
def processor(weights: str):
    return AutoProcessor.from_pretrained(weights)
