"""Two ranks on the CPU: nobody samples before the weights have arrived, and both see what one rank would see."""

import itertools
import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.fake_server import FakeServer
from tests.integration.ranks.rollout_rank import main
from tests.support.ranks import run_ranks
from tests.support.receiving_server import ReceivingServer


def run(
    server: FakeServer,
    devices: int,
    output: Path,
    staleness: int = 0,
    sharded: int = 0,
    sent: bool = False,
    references: tuple[str, ...] = (),
) -> list[list[dict]]:
    logs = output.with_suffix(".logs")
    more = (staleness, sharded, sent, references)
    run_ranks(main, str(server.checkpoint), server.url, devices, str(output), *more, folder=logs)
    return read(output, devices)


def read(output: Path, devices: int) -> list[list[dict]]:
    return [json.loads(Path(f"{output}.{rank}").read_text()) for rank in range(devices)]


def test_two_ranks(tmp_path: Path, server_weights: Path):
    with FakeServer(server_weights) as server:
        main(str(server_weights), server.url, 1, str(tmp_path / "one"))
    (one_rank,) = read(tmp_path / "one", 1)
    with FakeServer(server_weights) as server:
        forgot = []

        def behave(route, body) -> None:
            if route == "/collective_rpc":
                time.sleep(0.5)  # a rank that did not wait for the push would sample meanwhile
            if route.endswith("generate") and server.version == "run:1" and not forgot:
                forgot.append(True)
                server.version = "default"  # as if it had been restarted between two requests

        server.behave = behave
        ranks = run(server, 2, tmp_path / "two")
    # rank 0 alone pushes; whichever rank finds that the server has forgotten its weights pushes them again
    assert server.pushes() == ["run:0", "run:1", "run:1", "run:2", "run:3"]
    versions = [one["version"] for one in server.generated]
    assert [v for v in versions if v != "default"] == [f"run:{step}" for step in (0, 1, 2) for _ in range(4)]
    for whole, first, second in zip(one_rank, *ranks, strict=True):
        assert whole["questions"] == first["questions"] + second["questions"]
        assert whole["version"] == first["version"] == second["version"]
    # the first batch is drawn with the same weights and seeds: the completions are the same
    assert one_rank[0]["ids"] == ranks[0][0]["ids"] + ranks[1][0]["ids"]


def test_no_rank_changes_the_weights_under_rollouts_of_another(tmp_path: Path, server_weights: Path):
    """One batch ahead, with a server that has room for one request at a time: a rank waits for the other's turn."""
    with FakeServer(server_weights, settings={"max_num_seqs": 2}) as server:
        server.behave = lambda route, body: time.sleep(0.2) if route.endswith("generate") else None
        ranks = run(server, 2, tmp_path / "two", staleness=1)
    assert server.pushes() == ["run:0", "run:1", "run:2"]
    assert [one["version"] for one in server.generated] == ["run:0"] * 8 + ["run:1"] * 4
    for rank in ranks:
        assert [batch["version"] for batch in rank] == ["run:0", "run:0", "run:1"]


def test_a_failed_push_ends_all_ranks(tmp_path: Path, server_weights: Path):
    with FakeServer(server_weights) as server:

        def behave(route, body):
            loads = route == "/collective_rpc" and "is_checkpoint_format" not in body["kwargs"]
            return (400, "no such method") if loads else None

        server.behave = behave
        with pytest.raises(AssertionError, match="the server stays paused until a push succeeds"):
            run(server, 2, tmp_path / "out")


def test_sharded_weights_reach_the_server_and_each_rank_has_its_own_completions_scored(
    tmp_path: Path, server_weights: Path
):
    """The first push is of what the server has: gathered from two ranks, every number is the same."""
    found = []
    with FakeServer(server_weights) as server, FakeServer(server_weights) as scoring:

        def behave(route, body) -> None:
            folder = Path(body["kwargs"]["weights_path"]) if route == "/collective_rpc" else Path("probe")
            if folder.name != "probe":
                files = sorted(folder.glob("*.safetensors"))
                found.append({name: value for file in files for name, value in load_file(file).items()})

        server.behave = behave
        ranks = run(server, 2, tmp_path / "two", sharded=1, references=(scoring.url,))
        assert scoring.pushes() == [] and len(scoring.generated) == 12 * 2  # each completion of each rank once
        for batch in itertools.chain(*ranks):
            groups = zip(batch["prompts"], batch["ids"], batch["lengths"], batch["reference"], strict=True)
            for prompt, rows, lengths, scores in groups:
                for ids, length, score in zip(rows, lengths, scores, strict=True):
                    told = scoring._scores(prompt + ids[:length])[len(prompt) :]
                    wanted = [row[str(token)]["logprob"] for row, token in zip(told, ids, strict=False)]
                    assert score[:length] == pytest.approx(wanted) and wanted
    assert server.pushes() == ["run:0", "run:1", "run:2", "run:3"]
    expected = load_file(server_weights / "model.safetensors")
    assert found[0].keys() == expected.keys()
    assert all(torch.equal(found[0][name], value) for name, value in expected.items())
    assert any(not torch.equal(found[3][name], value) for name, value in expected.items())


@pytest.mark.parametrize("staleness", [0, 1])
def test_sharded_weights_are_sent_and_a_server_that_was_lost_gets_them_again(
    tmp_path: Path, server_weights: Path, staleness: int
):
    """Started anew under rollouts: it can be used only when both ranks have sent it weights together."""
    with ReceivingServer(server_weights) as server:
        first, again = {}, []

        def behave(route, body) -> None:
            if route == "/resume":
                first.update({} if first else server.received)
            if route.endswith("generate") and server.version == "run:1" and not again:
                again.append(True)
                server.version = "default"
                server.leave()

        server.behave = behave
        ranks = run(server, 2, tmp_path / "two", staleness, sharded=1, sent=True)
        assert server.meetings == 2 and not server.paused
    assert [rank[0]["version"] for rank in ranks] == ["run:0"] * 2
    drawn = [one["version"] for one in server.generated if one["version"] != "default"]
    assert len(drawn) >= 12  # a request that was answered by the lost weights is asked again
    for rank in ranks:
        assert all(batch["version"] in ("run:0", "run:1", "run:2") for batch in rank) and len(rank) == 3
    expected = load_file(server_weights / "model.safetensors")
    assert first.keys() == expected.keys()
    assert all(torch.equal(first[name], value) for name, value in expected.items())
