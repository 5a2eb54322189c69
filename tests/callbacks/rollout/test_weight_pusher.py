"""How weights get to the servers: in which type, by which folder, in which time; what is said where they don't."""

import contextlib
import errno
import fcntl
import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.fake_server import FakeServer
from callbacks.rollout import weight_pusher
from callbacks.rollout.weight_pusher import WeightPusher, collective_seconds, push_seconds
from inference.server_pool import ServerPool
from inference.weight_transfer import weight_directory
from inference.weight_transfer.weight_directory import PREFIX, WeightDirectory
from inference.weight_transfer.weight_sync import TensorSpec, sent_types
from records.hub_files import HubTensor
from runtime.errors import UserError
from tests.support.tiny_model import build


class Weights:
    """A student of two weights, as far as pushes know it."""

    sharded = False
    architecture = SimpleNamespace(ignored_prefixes=())

    def __init__(self, specs) -> None:
        self.specs = specs
        self.asked = 0

    def hub_shapes(self, types=None):
        return {
            name: HubTensor(spec.shape, (types or {}).get(name, torch.float32)) for name, spec in self.specs.items()
        }

    def hub_tensors(self, types):
        for name, shape in self.hub_shapes(types).items():
            self.asked += 1
            yield name, torch.ones(shape.shape, dtype=shape.dtype)


class Rank:
    """A trainer of one rank, as far as pushes know it."""

    is_global_zero, world_size, num_nodes, global_step = True, 1, 1, 3

    def __init__(self, root: Path) -> None:
        self.default_root_dir = str(root)
        self.strategy = SimpleNamespace(broadcast=lambda sent: sent, reduce_boolean_decision=lambda decision: decision)


@contextlib.contextmanager
def ready(checkpoint: Path, *servers: FakeServer, retry_seconds: float = 5.0, **settings):
    """Push once to servers that are there, and yield the pusher."""
    pool = ServerPool([server.url for server in servers], retry_seconds=retry_seconds, request_seconds=2.0)
    pool.wait(1)
    pusher = WeightPusher(pool, **settings)
    try:
        yield pusher
    finally:
        pool.close()
        pusher.close()


@pytest.fixture
def weights(server_weights: Path) -> Weights:
    return Weights(weight_pusher.read_specs(server_weights))


def loads(server: FakeServer) -> list[str]:
    """Note from now on which folders a server is told to load."""
    seen: list[str] = []

    def behave(route, body):
        if route == "/collective_rpc" and "is_checkpoint_format" not in body["kwargs"]:
            seen.append(body["kwargs"]["weights_path"])

    server.behave = behave
    return seen


@pytest.mark.parametrize(("computes_in", "itemsize"), [("float32", 4), ("bfloat16", 2)])
def test_sent_in_the_type_that_the_server_computes_in(
    tmp_path: Path, server_weights: Path, weights: Weights, computes_in: str, itemsize: int
):
    """The checkpoint's own type, float32 here, does not decide."""
    sizes = []
    with FakeServer(server_weights, settings={"dtype": computes_in}) as server:

        def behave(route, body):
            if route == "/collective_rpc":
                files = Path(body["kwargs"]["weights_path"]).glob("*")
                sizes.append(sum(file.stat().st_size for file in files))

        server.behave = behave
        with ready(server_weights, server) as pusher:
            pusher.push(Rank(tmp_path), weights, "run")
    numbers = sum(torch.Size(spec.shape).numel() for spec in weights.specs.values())
    assert itemsize * numbers <= sizes[-1] <= itemsize * numbers + 20_000  # the header


def test_types_of_servers_that_differ():
    specs = {"a": TensorSpec((1,), "F16"), "b": TensorSpec((1,), "F32"), "c": TensorSpec((1,), "I64")}
    half, brain, full = torch.float16, torch.bfloat16, torch.float32
    assert sent_types(specs, ["bfloat16"]) == {"a": half, "b": brain}  # a 16-bit checkpoint says which 16 bits
    assert sent_types(specs, ["bfloat16", "float32"]) == {"a": full, "b": full}
    assert sent_types(specs, [None]) == {"a": half, "b": full}


def test_a_small_shared_memory_is_named(tmp_path: Path, server_weights: Path, weights: Weights, monkeypatch, caplog):
    small = tmp_path / "shm"
    small.mkdir()
    monkeypatch.setattr(weight_pusher, "SHARED_MEMORY", small)
    room = weight_directory.room
    monkeypatch.setattr(weight_pusher, "room", lambda parent: 64e3 if parent == small else room(parent))
    with caplog.at_level("INFO", "lightning.pytorch.rollout"), FakeServer(server_weights) as server:
        seen = loads(server)
        with ready(server_weights, server) as pusher:
            pusher.push(Rank(tmp_path / "run"), weights, "run")
    assert f"through {tmp_path}/run/weight_sync, because {small} has room for" in caplog.text
    assert "--shm-size" in caplog.text
    assert [Path(path).parents[1] for path in seen] == [tmp_path / "run" / "weight_sync"]
    assert list(small.iterdir()) == []


def test_room_for_one_version_is_enough(tmp_path: Path, server_weights: Path, weights: Weights, monkeypatch, caplog):
    size = sum(4 * torch.Size(spec.shape).numel() for spec in weights.specs.values())
    monkeypatch.setattr(weight_pusher, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(weight_pusher, "room", lambda parent: size)
    most = []
    with FakeServer(server_weights) as server:
        server.behave = lambda route, body: most.append(
            sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
        )
        with ready(server_weights, server) as pusher:
            for step in range(3):
                rank = Rank(tmp_path)
                rank.global_step = step
                pusher.push(rank, weights, "run")
    assert max(most) < 1.1 * size
    assert server.pushes() == ["run:0", "run:1", "run:2"]


def test_a_folder_that_the_server_does_not_see_is_passed_over(
    tmp_path: Path, server_weights: Path, weights: Weights, monkeypatch, caplog
):
    """An SSH tunnel makes a server look local: it is asked."""
    monkeypatch.setattr(weight_pusher, "SHARED_MEMORY", tmp_path / "shm")
    (tmp_path / "shm").mkdir()
    with caplog.at_level("INFO", "lightning.pytorch.rollout"), FakeServer(server_weights) as server:

        def behave(route, body):
            hidden = route == "/collective_rpc" and "/shm/" in body["kwargs"]["weights_path"]
            return (500, "Cannot find any model weights") if hidden else None

        server.behave = behave
        with ready(server_weights, server) as pusher:
            pusher.push(Rank(tmp_path / "run"), weights, "run")
        assert not server.paused
    assert server.pushes() == ["run:3"]
    assert f"because {server.url} cannot read {tmp_path}/shm (it runs on another machine" in caplog.text


def test_a_server_that_sees_no_folder_is_named_at_once(tmp_path: Path, server_weights: Path, weights: Weights):
    with FakeServer(server_weights) as server:
        server.behave = lambda route, body: (500, "Cannot find any") if route == "/collective_rpc" else None
        begun = time.monotonic()
        with (
            ready(server_weights, server, retry_seconds=600, sync_dir=str(tmp_path)) as pusher,
            pytest.raises(UserError, match=rf"{server.url} cannot read {tmp_path}.*Set sync_dir to a folder"),
        ):
            pusher.push(Rank(tmp_path), weights, "run")
        assert time.monotonic() - begun < 5
        assert not server.paused and server.version == "default"  # its weights are untouched: it goes on
    assert weights.asked == 0
    assert not list(tmp_path.glob(f"{PREFIX}*"))


def test_a_permanent_failure_is_not_retried_for_ever(tmp_path: Path, server_weights: Path, weights: Weights):
    with FakeServer(server_weights) as server:

        def behave(route, body):
            loads = route == "/collective_rpc" and "is_checkpoint_format" not in body["kwargs"]
            return (500, "out of memory") if loads else None

        server.behave = behave
        begun = time.monotonic()
        with (
            ready(server_weights, server, retry_seconds=600) as pusher,
            pytest.raises(UserError, match=r"out of memory \(3 times, although .* stays paused until a push succeeds"),
        ):
            pusher.push(Rank(tmp_path), weights, "run")
        assert time.monotonic() - begun < 5 and server.paused
        loads(server)
        with ready(server_weights, server) as pusher:  # the next run begins with a push
            pusher.push(Rank(tmp_path), weights, "next")
        assert not server.paused and server.version == "next:3"


def test_a_relative_folder_is_sent_as_an_absolute_one(
    tmp_path: Path, server_weights: Path, weights: Weights, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with FakeServer(server_weights) as server:
        seen = loads(server)
        with ready(server_weights, server, sync_dir="sync") as pusher:
            pusher.push(Rank(Path("run")), weights, "run")
        monkeypatch.setattr(weight_pusher, "SHARED_MEMORY", tmp_path / "none")
        with ready(server_weights, server) as pusher:
            pusher.push(Rank(Path("run")), weights, "run")
    assert [str(Path(path).parents[1]) for path in seen] == [f"{tmp_path}/sync", f"{tmp_path}/run/weight_sync"]


def test_one_weight_is_in_memory_at_a_time(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(weight_directory, "SHARD_BYTES", 4000)
    shapes = {f"weight{number}": HubTensor((1000,), torch.float32) for number in range(6)}
    alive: set[int] = set()
    most = []

    class Counted(torch.Tensor):
        def __del__(self):
            alive.discard(id(self))

    def tensors():
        for number, name in enumerate(shapes):
            value = torch.full((1000,), float(number)).as_subclass(Counted)
            alive.add(id(value))
            most.append(len(alive))
            yield name, value
            del value

    directory = WeightDirectory.make(tmp_path)
    written = directory.write(tensors(), shapes, "run:1")
    assert max(most) == 1
    assert len(list(written.glob("*.safetensors"))) == 6
    assert weight_directory.read_specs(written) == {name: TensorSpec((1000,), "F32") for name in shapes}
    directory.remove()


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch):
    def write_hub_files(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    directory = WeightDirectory.make(tmp_path)
    monkeypatch.setattr(weight_directory, "write_hub_files", write_hub_files)
    with pytest.raises(UserError, match=r"the weights \(0.4 GB\) could not be written to .*No space left.*sync_dir"):
        directory.write([("a", torch.ones(1))], {"a": HubTensor((10**8,), torch.float32)}, "run:1")
    directory.remove()
    assert list(tmp_path.iterdir()) == []


def test_other_ranks_end_their_part_when_writing_fails(tmp_path: Path, server_weights: Path, weights, monkeypatch):
    """Sharded weights are gathered by all ranks: rank 0 takes part to the end, whatever happens to it."""

    def write(self, *args):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(WeightDirectory, "write", write)
    monkeypatch.setattr(weights, "sharded", True, raising=False)
    with (
        FakeServer(server_weights) as server,
        ready(server_weights, server) as pusher,
        pytest.raises(OSError, match="input/output"),
    ):
        pusher.push(Rank(tmp_path), weights, "run")
    assert weights.asked == len(weights.specs)


def test_a_slow_server_does_not_outlast_the_other_ranks(tmp_path: Path, server_weights: Path, weights: Weights):
    with FakeServer(server_weights) as server:

        def behave(route, body):
            if route == "/collective_rpc" and "is_checkpoint_format" not in body["kwargs"]:
                time.sleep(1.5)

        server.behave = behave
        rank = Rank(tmp_path)
        rank.world_size = 2
        rank.strategy._timeout = SimpleNamespace(total_seconds=lambda: weight_pusher.RESERVED_SECONDS + 0.5)
        begun = time.monotonic()
        with (
            ready(server_weights, server, retry_seconds=600) as pusher,
            pytest.raises(UserError, match="no rollout server could be given weights"),
        ):
            pusher.push(rank, weights, "run")
        assert time.monotonic() - begun < 8


def test_limits_add_up_to_less_than_the_ranks_wait(tmp_path: Path):
    assert push_seconds(wanted=1200, collective=float("inf"), spent=100) == 1200  # one rank
    assert push_seconds(wanted=1200, collective=1800, spent=100) == 1200
    assert push_seconds(wanted=1200, collective=1800, spent=700) == 800
    assert push_seconds(wanted=4000, collective=600, spent=0) == 300
    rank = Rank(tmp_path)
    assert collective_seconds(rank) == float("inf")
    rank.world_size = 8
    assert collective_seconds(rank) == 1800


def test_each_server_must_have_the_students_model(tmp_path: Path, server_weights: Path, weights: Weights):
    other = build(tmp_path / "other", seconds=1)
    with FakeServer(server_weights) as one, FakeServer(other) as two:
        message = rf"do not fit the rollout server's model \({two.url}\), nothing was sent"
        with ready(server_weights, one, two) as pusher, pytest.raises(UserError, match=message):
            pusher.push(Rank(tmp_path), weights, "run")
        assert one.pushes() == two.pushes() == []


def test_a_server_that_comes_back_with_another_model_is_refused(tmp_path: Path, server_weights: Path, weights: Weights):
    other = build(tmp_path / "other", seconds=1)
    with FakeServer(server_weights) as server, ready(server_weights, server) as pusher:
        pusher.push(Rank(tmp_path), weights, "run")
        server.checkpoint, server.version = other, "default"
        with pytest.raises(UserError, match="nothing was sent"):
            pusher.pool.keeper.push()
    assert server.pushes() == ["run:3"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EIO])
def test_without_locks_of_the_file_system(
    tmp_path: Path, server_weights: Path, weights: Weights, monkeypatch, number: int
):
    def flock(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    dead, alive = tmp_path / f"{PREFIX}dead", tmp_path / f"{PREFIX}alive"
    for folder, pid in ((dead, 2**22 + 1), (alive, os.getpid())):
        folder.mkdir()
        owner = {**weight_directory._this_process(), "pid": pid}
        (folder / "owner").write_text(json.dumps(owner))
    with FakeServer(server_weights) as server, ready(server_weights, server, sync_dir=str(tmp_path)) as pusher:
        pusher.push(Rank(tmp_path), weights, "run")
    assert server.pushes() == ["run:3"]
    assert [folder.name for folder in tmp_path.glob(f"{PREFIX}*")] == [alive.name]


def test_a_folder_that_another_node_does_not_reach_is_named():
    with pytest.raises(UserError, match=r"cannot be used here .*set sync_dir"), WeightDirectory("/nowhere").lock("url"):
        pytest.fail("it is not there")


def test_a_second_run_on_the_same_server_is_refused(tmp_path: Path, server_weights: Path, weights: Weights):
    with FakeServer(server_weights) as server, ready(server_weights, server) as first:
        first.push(Rank(tmp_path / "one"), weights, "one")
        alias = ServerPool([server.url.replace("127.0.0.1", "localhost")])
        alias.wait(1)
        second = WeightPusher(alias)
        with pytest.raises(UserError, match=rf"in use by another run \(process {os.getpid()}, .*/one\).*--port"):
            second.push(Rank(tmp_path / "two"), weights, "two")
        assert server.version == "one:3"
        first.close()
        second.push(Rank(tmp_path / "two"), weights, "two")
        assert server.version == "two:3"
        second.close()
        alias.close()


def test_a_server_killed_in_the_middle_of_a_push_gets_its_weights_when_it_is_back(
    tmp_path: Path, server_weights: Path, weights: Weights
):
    with FakeServer(server_weights) as server, ready(server_weights, server, retry_seconds=20) as pusher:
        kills = [True]

        def behave(route, body):
            if route == "/collective_rpc" and "is_checkpoint_format" not in body["kwargs"] and kills:
                kills.clear()
                threading.Thread(target=server.stop).start()
                threading.Timer(1.0, server.start).start()
                time.sleep(0.5)

        server.behave = behave
        pusher.push(Rank(tmp_path), weights, "run")
        assert server.version == "run:3" and not server.paused


def test_a_killed_server_that_stays_away_is_named(tmp_path: Path, server_weights: Path, weights: Weights):
    with FakeServer(server_weights) as server, ready(server_weights, server, retry_seconds=0.5) as pusher:

        def behave(route, body):
            if route == "/collective_rpc" and "is_checkpoint_format" not in body["kwargs"]:
                threading.Thread(target=server.stop).start()
                time.sleep(0.3)

        server.behave = behave
        with pytest.raises(UserError, match=rf"could be given weights .*{server.url}.*start it again"):
            pusher.push(Rank(tmp_path), weights, "run")
        server.behave = lambda route, body: None
        server.start()


def test_an_interrupted_run_ends_its_push_first(tmp_path: Path, server_weights: Path, weights: Weights):
    """SIGINT in the middle of a push: the server is not left with half of the weights."""
    with FakeServer(server_weights) as server:
        begun = threading.Event()

        def behave(route, body):
            if route == "/collective_rpc" and "is_checkpoint_format" not in body["kwargs"]:
                begun.set()
                time.sleep(0.5)

        server.behave = behave
        with ready(server_weights, server) as pusher:
            thread = threading.Thread(target=pusher.push, args=(Rank(tmp_path), weights, "run"))
            thread.start()
            begun.wait(5)
            pusher.pool.close()  # as the main thread does when it is interrupted
            assert server.version == "run:3" and not server.paused
            thread.join()
