"""Weights sent to real vLLM servers over gloo: by one trainer, by two sharded ranks, by one that is killed."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from callbacks.rollout.parity import measure_parity
from callbacks.rollout.transfer_pusher import TransferPusher
from callbacks.rollout.vllm_rollout import VLLMRollout
from datamodules.batching.batch import AudioQABatch
from datamodules.batching.collate import Collator
from datamodules.prompts.questions import THINK_SHORT
from inference.server_pool import ServerPool
from inference.vllm.client import VLLMClient
from inference.vllm_server import VLLMServer
from inference.weight_transfer.gloo import GlooTransfer
from lightning_modules.models.adapters import LoRASettings
from lightning_modules.models.student import Student
from tests.callbacks.rollout.test_vllm_rollout import trainer
from tests.callbacks.rollout.test_weight_pusher import Rank
from tests.integration.ranks.rollout_rank import main as train_on_ranks
from tests.integration.servers.killed_sender import send_half
from tests.support.agreement import assert_local_rollouts_are_the_servers
from tests.support.questions import Learner, Questions, example
from tests.support.ranks import forked, run_ranks

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def servers(server_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[VLLMServer]]:
    """Two servers, which start at once."""
    logs = tmp_path_factory.mktemp("logs")
    made = [
        VLLMServer(
            server_weights, max_num_seqs=16, max_model_len=768, threads=1, weight_transfer="gloo", log_file=logs / name
        )
        for name in ("one.log", "two.log")
    ]
    try:
        for server in made:
            server.start(wait=False)
        for server in made:
            server.wait()
        yield made
    finally:
        for server in made:
            server.stop()


@pytest.fixture(scope="module")
def batch(server_weights: Path) -> AudioQABatch:
    student = Student(str(server_weights))
    return Collator(student.processor, THINK_SHORT)([example(number) for number in range(2)])


def push(servers: list[VLLMServer], student: Student, root: Path, step: int = 0) -> None:
    rank = Rank(root)
    rank.global_step = step
    pool = ServerPool([server.url for server in servers], retry_seconds=60)
    pool.wait(1)
    pusher = TransferPusher(pool, GlooTransfer(bucket_mib=1, seconds=30.0))
    pusher.push(rank, student, "run")
    pusher.close()
    pool.close()


def assert_computes_as(server: VLLMServer, student: Student, batch: AudioQABatch) -> None:
    """The same greedy completions, and log-probabilities within 1e-3 of the trainer's."""
    client = VLLMClient(server.url)
    assert_local_rollouts_are_the_servers(client, student, batch)
    assert measure_parity(client, student, batch, 1.0, seed=5).largest_gap < 1e-3
    client.close()


def changed(weights: Path, seed: int) -> Student:
    """A student of the same shapes with other weights, part of which are adapters."""
    student = Student(str(weights), lora=LoRASettings(rank=4)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in student.parameters():
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.02)
    return student


def test_two_servers_compute_what_the_trainer_computes(
    servers: list[VLLMServer], server_weights: Path, batch: AudioQABatch, tmp_path: Path
):
    for step in range(2):
        student = changed(server_weights, step)
        push(servers, student, tmp_path, step)
        for server in servers:
            assert_computes_as(server, student, batch)


def test_a_run_with_its_parity_gate(servers: list[VLLMServer], server_weights: Path, tmp_path: Path):
    """Three optimizer steps, each sampled with the weights of the one before it."""
    rollouts = VLLMRollout(
        [server.url for server in servers],
        max_new_tokens=6,
        seed=1,
        run_id="gated",
        weight_transfer=GlooTransfer(bucket_mib=1, seconds=30.0),
    )
    module = Learner(str(server_weights))
    run = trainer(tmp_path, rollouts, num_sanity_val_steps=0, limit_val_batches=0)
    run.fit(module, Questions(module.student.processor, 6, 2))
    versions = [done.completions.weight_version for done in module.train_batches if done.completions is not None]
    assert versions == ["gated:0", "gated:1", "gated:2"]


@pytest.mark.slow
def test_a_killed_trainer_leaves_servers_that_the_next_run_can_use(
    servers: list[VLLMServer], server_weights: Path, batch: AudioQABatch, tmp_path: Path
):
    """Killed in mid-transfer: half of the weights have arrived, a layer is half-filled, and the servers are paused."""
    under_way = tmp_path / "under_way"
    urls = [server.url for server in servers]
    killed = forked(send_half, str(server_weights), urls, str(under_way), log=tmp_path / "killed.log")
    while not under_way.exists():
        assert killed.is_alive(), (tmp_path / "killed.log").read_text()
        time.sleep(0.05)
    killed.kill()
    killed.join()
    assert VLLMClient(urls[0]).is_paused()
    student = changed(server_weights, 8)
    begun = time.monotonic()
    push(servers, student, tmp_path, 3)
    assert time.monotonic() - begun < 30  # nobody waited for the dead one
    for server in servers:
        assert_computes_as(server, student, batch)


@pytest.mark.slow
def test_two_sharded_ranks(servers: list[VLLMServer], server_weights: Path, tmp_path: Path):
    """FSDP2: each weight is gathered by both ranks, and sent by the first."""
    output = tmp_path / "out"
    run_ranks(train_on_ranks, str(server_weights), servers[0].url, 2, str(output), 0, 1, True, folder=tmp_path / "logs")
    for rank in range(2):
        done = json.loads(Path(f"{output}.{rank}").read_text())
        assert [batch["version"] for batch in done] == ["run:0", "run:1", "run:2"]
