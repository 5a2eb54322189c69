from pathlib import Path

import pytest

from mini.world.corpus import CorpusConfig, build_corpus

TINY = CorpusConfig(seed=3, train_clips=24, val_clips=8, test_clips=8, traces_per_question=3)


@pytest.fixture(scope="session")
def tiny_config() -> CorpusConfig:
    return TINY


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_corpus(tmp_path_factory.mktemp("mini") / "corpus", TINY, processes=2)
