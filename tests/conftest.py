"""Tiers and workers, and what all tests may ask for: the synthetic world and its endpoints, one real vLLM server."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.vllm.client import VLLMClient
from inference.vllm_server import VLLMServer
from inference.weight_transfer.weight_sync import push
from mini.world.endpoints import MiniEndpoints
from tests.support.synthetic_world import build_world
from tests.support.tiny_model import build

pytest_plugins = ["tests.support.chromium", "tests.support.stage_runs"]

INTEGRATION = Path(__file__).parent / "integration"
LONGEST = INTEGRATION / "stages" / "test_pipeline.py"

# A shell without job control, as make's and CI's are, starts what it puts in the background with SIGINT ignored, and
# every process that is started from there inherits that: no stage under test would hear a Ctrl-C. Handlers do not
# outlive exec, so that with one here each child begins with the system's default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tier; the longest begins first; a file stays with one worker, and all that share the server do."""
    for item in items:
        shares = isinstance(item, pytest.Function) and "shared_vllm_server" in item.fixturenames
        if item.path.is_relative_to(INTEGRATION) or item.get_closest_marker("server"):
            item.add_marker("integration")
        if config.pluginmanager.hasplugin("xdist"):
            item.add_marker(pytest.mark.xdist_group("server" if shares else str(item.path)))
    items.sort(key=lambda item: (item.path != LONGEST, item.get_closest_marker("integration") is None))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(ids: list[str]) -> None:
    """Refuse workers that know no groups: each would start servers of its own, and nothing else would show it."""
    if not all("@" in node_id for node_id in ids):
        pytest.exit("this pytest-xdist does not see the groups of tests/conftest.py: is pytest too new for it?", 4)


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
    """The synthetic world at its smallest: ``corpus`` and ``student``."""
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def endpoints() -> Iterator[MiniEndpoints]:
    """The synthetic world's teacher and checker."""
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
