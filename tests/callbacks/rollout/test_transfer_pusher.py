"""Weights that are sent without files: what arrives, what is said where it does not, who comes back how."""

import contextlib
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks.rollout import weight_pusher
from callbacks.rollout.rollout_servers import RolloutServers
from callbacks.rollout.transfer_pusher import TransferPusher
from callbacks.rollout.vllm_rollout import VLLMRollout
from datamodules.batching.sampler import ResumableLoader
from inference.server_pool import ServerPool
from inference.vllm.client import ServerRefused
from inference.vllm.pooled_server import ServersLost
from inference.weight_transfer import nccl, transfer_session
from inference.weight_transfer.gloo import GlooTransfer
from inference.weight_transfer.ipc import IPCTransfer
from inference.weight_transfer.nccl import NCCLTransfer
from inference.weight_transfer.transfer import TransferError, WeightStream
from inference.weight_transfer.weight_sync import WeightSyncError
from records.hub_files import HubTensor
from runtime.errors import UserError
from tests.callbacks.rollout.test_vllm_rollout import trainer
from tests.callbacks.rollout.test_weight_pusher import Rank
from tests.support.questions import Learner, Questions
from tests.support.receiving_server import ReceivingServer

MIB = 1024**2


class Weights:
    """A student whose weights all have the number of its step."""

    sharded = False
    architecture = SimpleNamespace(ignored_prefixes=())

    def __init__(self, checkpoint: Path) -> None:
        self.specs = weight_pusher.read_specs(checkpoint)
        self.value = 0.0
        self.asked = 0
        self.stop_at: int | None = None

    def parameters(self):
        return iter([torch.zeros(1)])

    def hub_shapes(self, types=None):
        return {
            name: HubTensor(spec.shape, (types or {}).get(name, torch.float32)) for name, spec in self.specs.items()
        }

    def hub_tensors(self, types=None, device="cpu"):
        for name, part in self.hub_shapes(types).items():
            self.asked += 1
            yield name, torch.full(part.shape, self.value, dtype=part.dtype)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(transfer_session, "backoff", lambda failures: 0.02)


@pytest.fixture
def weights(server_weights: Path) -> Weights:
    return Weights(server_weights)


@contextlib.contextmanager
def ready(*servers: ReceivingServer, way=None, retry_seconds: float = 60.0):
    pool = ServerPool([server.url for server in servers], retry_seconds=retry_seconds, request_seconds=2.0)
    pool.wait(1)
    pusher = TransferPusher(pool, way or GlooTransfer(bucket_mib=1, seconds=60.0))
    try:
        yield pusher
    finally:
        pool.close()
        pusher.close()


def push(pusher: TransferPusher, weights: Weights, root: Path, step: int) -> None:
    rank = Rank(root)
    rank.global_step = step
    weights.value = float(step + 1)
    assert pusher.push(rank, weights, "run") == "run"
    assert pusher.version == f"run:{step}"


def assert_has(server: ReceivingServer, weights: Weights, step: int) -> None:
    assert server.version == f"run:{step}" and not server.paused
    assert server.received.keys() == weights.specs.keys()
    assert all(bool((value == step + 1).all()) for value in server.received.values())


def test_two_servers_get_the_same_stream(tmp_path: Path, server_weights: Path, weights: Weights):
    with ReceivingServer(server_weights) as one, ReceivingServer(server_weights) as two, ready(one, two) as pusher:
        for step in range(2):
            weights.asked = 0
            push(pusher, weights, tmp_path, step)
            assert weights.asked == len(weights.specs)  # each is gathered once, however many servers there are
            assert_has(one, weights, step)
            assert_has(two, weights, step)
        assert one.meetings == two.meetings == 1
    assert list(tmp_path.iterdir()) == []  # no files


def test_sent_in_the_type_that_the_server_computes_in(tmp_path: Path, server_weights: Path, weights: Weights):
    with ReceivingServer(server_weights, settings={"dtype": "bfloat16"}) as server, ready(server) as pusher:
        push(pusher, weights, tmp_path, 0)
        assert {value.dtype for value in server.received.values()} == {torch.bfloat16}


def test_other_shapes_are_refused_before_anything_is_sent(tmp_path: Path, server_weights: Path, weights: Weights):
    weights.specs |= {"more": next(iter(weights.specs.values()))}
    with ReceivingServer(server_weights) as server, ready(server) as pusher:
        with pytest.raises(WeightSyncError, match=r"nothing was sent: 1 weights are unknown to the server \(more\)"):
            push(pusher, weights, tmp_path, 0)
        assert server.meetings == 0 and not server.paused and weights.asked == 0


def test_a_server_without_the_way_is_told_how_to_start(tmp_path: Path, server_weights: Path, weights: Weights):
    with (
        ReceivingServer(server_weights, settings={"weight_transfer": "files"}) as server,
        ready(server) as pusher,
        pytest.raises(ServerRefused, match="start it with --weight-transfer"),
    ):
        push(pusher, weights, tmp_path, 0)


def test_a_server_that_was_started_anew_joins_again(tmp_path: Path, server_weights: Path, weights: Weights):
    with ReceivingServer(server_weights) as one, ReceivingServer(server_weights) as two, ready(one, two) as pusher:
        push(pusher, weights, tmp_path, 0)
        two.stop()
        push(pusher, weights, tmp_path, 1)  # the other one has them; nobody waits
        assert_has(one, weights, 1)
        two.start()
        for server in pusher.pool.servers:
            server.gate_due = False
        push(pusher, weights, tmp_path, 2)
        assert_has(one, weights, 2)
        assert_has(two, weights, 2)
        assert [server.gate_due for server in pusher.pool.servers] == [False, True]


def test_a_server_that_dies_in_mid_transfer(tmp_path: Path, server_weights: Path, weights: Weights, caplog):
    with ReceivingServer(server_weights) as one, ReceivingServer(server_weights) as two, ready(one, two) as pusher:
        push(pusher, weights, tmp_path, 0)
        two.behave = lambda route, body: two.stop() if route == "/update_weights" else None
        push(pusher, weights, tmp_path, 1)
        assert_has(one, weights, 1)
        assert two.url in caplog.text and "did not receive the weights" in caplog.text
        two.behave = lambda route, body: None
        two.start()
        push(pusher, weights, tmp_path, 2)
        assert_has(two, weights, 2)


def test_what_an_interrupted_update_has_left_is_cleared(tmp_path: Path, server_weights: Path, weights: Weights):
    """A killed trainer leaves the server paused, in an update that has begun or has failed half-way."""
    for active in (True, False):
        with ReceivingServer(server_weights) as server:
            server.paused, server.active, server.stale, server.version = True, active, True, "killed:7"
            with ready(server) as pusher:
                push(pusher, weights, tmp_path, 0)
                assert_has(server, weights, 0)
                assert pusher.pool.servers[0].info.dtype == "float32"  # asked again, now that it answers


def test_who_did_not_come_is_named(tmp_path: Path, server_weights: Path, weights: Weights):
    late = threading.Event()
    with ReceivingServer(server_weights) as server:
        server.behave = lambda route, body: late.wait(3) and None if route == "/init_weight_transfer_engine" else None
        with (
            ready(server, way=GlooTransfer(seconds=0.3), retry_seconds=0.1) as pusher,
            pytest.raises(ServersLost, match=rf"did not meet the trainer: {server.url}/init.* within 0 s"),
        ):
            push(pusher, weights, tmp_path, 0)
        late.set()


def test_a_server_that_fails_again_and_again(tmp_path: Path, server_weights: Path, weights: Weights):
    with ReceivingServer(server_weights) as server, ready(server) as pusher:
        server.behave = lambda route, body: (500, "no such layer") if route == "/update_weights" else None
        with pytest.raises(WeightSyncError, match=r"no such layer.*3 times, although the servers themselves are well"):
            push(pusher, weights, tmp_path, 0)
        assert server.paused
        server.behave = lambda route, body: None
        push(pusher, weights, tmp_path, 1)
        assert_has(server, weights, 1)


def test_a_failed_send_leaves_no_rank_waiting(tmp_path: Path, server_weights: Path, weights: Weights):
    """Other ranks take part in gathering each weight: rank 0 goes through all of them, whatever happens."""
    with ReceivingServer(server_weights) as server, ready(server) as pusher:
        server.behave = lambda route, body: (400, "no") if route == "/start_weight_update" else None
        with pytest.raises(ServerRefused, match="no"):
            push(pusher, weights, tmp_path, 0)
        assert weights.asked == len(weights.specs)


def test_other_versions_are_read_back(tmp_path: Path, server_weights: Path, weights: Weights):
    with ReceivingServer(server_weights) as server, ready(server) as pusher:

        def behave(route, body):
            if route == "/resume":
                server.version = "other:3"

        server.behave = behave
        with pytest.raises(ServerRefused, match="reports weight version 'other:3' right after it was given 'run:0'"):
            push(pusher, weights, tmp_path, 0)


def test_a_loopback_address_is_refused_for_servers_elsewhere():
    for way in (GlooTransfer(), NCCLTransfer()):
        with pytest.raises(TransferError, match=r"http://10.0.0.2:8000 would look for the trainer at 127.0.0.1"):
            way.check(torch.device("cuda" if isinstance(way, NCCLTransfer) else "cpu"), 1, ["http://10.0.0.2:8000"])
    GlooTransfer("10.0.0.1").check(torch.device("cpu"), 8, ["http://10.0.0.2:8000"])


@pytest.mark.parametrize(
    ("way", "device", "ranks", "server", "message"),
    [
        (NCCLTransfer(), "cpu", 1, "http://127.0.0.1:1", "nccl sends from GPU to GPU.*on the cpu.*for files"),
        (IPCTransfer(), "cpu", 1, "http://127.0.0.1:1", "ipc is for a server on the trainer's GPU.*on the cpu"),
        (IPCTransfer(), "cuda", 6, "http://127.0.0.1:1", "one trainer process.*there are 6: use callbacks.NCCL"),
        (IPCTransfer(), "cuda", 1, "http://10.0.0.2:1", "10.0.0.2:1 is on another machine: use callbacks.NCCL"),
    ],
)
def test_what_a_way_cannot_do_is_refused(way, device: str, ranks: int, server: str, message: str):
    with pytest.raises(TransferError, match=message):
        way.check(torch.device(device), ranks, [server])


def test_an_address_of_another_machine(tmp_path: Path, server_weights: Path, weights: Weights):
    with (
        ReceivingServer(server_weights) as server,
        ready(server, way=GlooTransfer("192.0.2.1")) as pusher,
        pytest.raises(TransferError, match=r"cannot come to 192.0.2.1 .*set weight_transfer.init_args.address"),
    ):
        push(pusher, weights, tmp_path, 0)


@pytest.mark.parametrize("settings", [{"bucket_mib": 0}, {"seconds": 0.0}])
def test_sizes_and_limits_are_positive(settings):
    with pytest.raises(UserError, match="both must be positive"):
        GlooTransfer(**settings)


def test_ways_of_vllm_are_told_what_they_want_to_know():
    """No GPU here: what vLLM's factories are given is checked, not what they do with it."""
    weights = WeightStream({"large": HubTensor((3 * MIB,), torch.float32)}, lambda: iter(()))
    info = NCCLTransfer("10.0.0.1", bucket_mib=16).init_info(SimpleNamespace(world_size=3), 4321)
    assert (info.backend, info.rank, info.master_address, info.master_port) == ("nccl", 0, "10.0.0.1", 4321)
    assert (info.world_size, info.packed, info.packed_buffer_size_bytes) == (3, True, 16 * MIB)
    info = IPCTransfer(bucket_mib=4).init_info(weights)  # the largest weight must fit into the only bucket
    assert (info.backend, info.rank, info.packed, info.packed_buffer_size_bytes) == ("ipc", 0, True, 12 * MIB)


def test_nccl_sends_what_the_step_has_left(monkeypatch: pytest.MonkeyPatch, weights: Weights):
    """vLLM reads the weights on streams that do not wait for the optimizer's."""
    told: list[str] = []
    engine = SimpleNamespace(send_weights=lambda: told.append("sent"))
    for name, stand_in in {
        "current_device": lambda: 0,
        "synchronize": lambda device: told.append(f"device {device} is done"),
        "device": lambda device: contextlib.nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(nccl, "build_engine", lambda *_: engine)
    receivers: Any = SimpleNamespace(world_size=2, problem=None)
    NCCLTransfer().meet(receivers, WeightStream(weights.hub_shapes(), weights.hub_tensors)).send_weights()
    assert told == ["device 0 is done", "sent"]


def test_vllms_own_sender_takes_our_weights(weights: Weights):
    """It compares each weight with what was announced, as ours does."""
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerWeightTransferEngine

    stream = WeightStream(weights.hub_shapes(), weights.hub_tensors)
    stream.begin()
    checked: Any = NCCLTrainerWeightTransferEngine._checked_iter
    assert [name for name, _ in checked(stream, stream.metadata())] == list(weights.specs)
    stream.begin()
    with pytest.raises(ValueError, match="declared"):
        list(checked(stream, stream.metadata()[::-1]))


@pytest.mark.parametrize("staleness", [0, 1])
def test_rollouts_go_on_when_the_only_server_was_started_anew(tmp_path: Path, server_weights: Path, staleness: int):
    """Its weights are sent again at once, and what it was asked is asked again with the same seeds."""
    module = Learner(str(server_weights))
    with ReceivingServer(server_weights) as server:
        lost = []

        def behave(route, body):
            if route.endswith("generate") and "content_parts" in body and server.version == "run:1" and not lost:
                lost.append(body)
                server.version = "default"
                server.leave()

        server.behave = behave
        rollouts = VLLMRollout(
            [server.url],
            max_new_tokens=6,
            seed=7,
            run_id="run",
            parity_gate=False,
            max_staleness=staleness,
            weight_transfer=GlooTransfer(bucket_mib=1, seconds=60.0),
        )
        data = Resumable(module.student.processor, 8, 2)
        trainer(tmp_path, rollouts).fit(module, data)
        assert server.meetings == 2 and not server.paused
    asked = [(one["version"], one["body"]["sampling_params"]["seed"]) for one in server.generated]
    seed = lost[0]["sampling_params"]["seed"]
    assert seed in [found for version, found in asked if version != "default"]
    assert module.train_batches[0].completions.weight_version == "run:0"
    assert len(module.train_batches) == 4


def test_an_evaluation_on_several_ranks_cannot_send_weights_again():
    nobody = [lambda urls: None] * 2
    servers = RolloutServers(lambda: None, lambda pool: SimpleNamespace(together=True), None, *nobody)
    servers._pusher = SimpleNamespace(together=True)
    several = SimpleNamespace(world_size=2, training=False)
    assert servers.all_have_drawn(several, True)
    with pytest.raises(ServersLost, match=r"evaluation on several ranks.*run it again"):
        servers.all_have_drawn(several, False)
    alone = SimpleNamespace(world_size=1, training=False)
    assert not servers.all_have_drawn(alone, False)


def test_one_way_at_a_time():
    with pytest.raises(UserError, match="sync_dir or are sent by weight_transfer"):
        VLLMRollout(["http://127.0.0.1:1"], sync_dir="x", weight_transfer=GlooTransfer())


class Resumable(Questions):
    """Questions in order, from a loader that knows the next batch."""

    def train_dataloader(self):
        return ResumableLoader(self.examples, self.batch_size, collate_fn=self.collate)
