"""What all tests may ask for: the embedded world and its endpoints, one real vLLM server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.vllm.client import VLLMClient
from inference.vllm_server import VLLMServer
from inference.weight_transfer.weight_sync import push
from mini.world.endpoints import MiniEndpoints
from tests.support.embedded import build_world
from tests.support.tiny_model import build

pytest_plugins = ["tests.support.stage_runs"]


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Undo changes to the environment: Lightning's launchers leave ranks behind, which the next launch would obey."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded world at its smallest: ``corpus`` and ``student``."""
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def endpoints() -> Iterator[MiniEndpoints]:
    """The embedded world's teacher and checker."""
    with MiniEndpoints() as served:
        yield served


@pytest.fixture(scope="session")
def server_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint that the shared server is started with: a tiny random Qwen2-Audio that hears two seconds."""
    return build(tmp_path_factory.mktemp("weights") / "tiny", seconds=2)


@pytest.fixture(scope="session")
def shared_vllm_server(server_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    """The server as the last test has left it; use ``vllm_server``."""
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with VLLMServer(server_weights, max_num_seqs=32, max_model_len=768, log_file=log) as server:
        yield server


@pytest.fixture
def vllm_server(shared_vllm_server: VLLMServer, server_weights: Path) -> VLLMServer:
    """A real vLLM server with the weights of ``server_weights``."""
    client = VLLMClient(shared_vllm_server.url)
    push(client, server_weights, "default")
    client.close()
    return shared_vllm_server
