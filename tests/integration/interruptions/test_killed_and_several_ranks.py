"""The stage in processes of its own: killed and begun again, and shared by two machines."""

import dataclasses
import json
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from benchmarks.stub_endpoint import FAULTS, StubEndpoint
from records.records import Trace, Verdict, write_jsonl
from records.request_records import RequestError, Usage
from tests.support.ranks import forked, run_machines, stage
from tests.support.stages import OPTIONS, Stage, records, stage_args
from tests.support.stub_process import OUTLASTING, StubProcess

EXPECTED = sorted((f"avqa/train/{q}", s) for q in range(12) for s in range(3))


def test_stage_and_endpoint_killed_twice_under_faults_equals_a_calm_run(
    run_teacher: Stage, avqa: Path, tmp_path: Path
) -> None:
    """A fifth of the requests fail in five ways; the endpoint is killed twice, and the stage is killed twice."""
    more = [f"--model.init_args.{option}" for option in ("n_in_one_request=false", "samples=3", "endpoint.name=stub")]
    with StubEndpoint() as stub:
        run_teacher(stub.url, tmp_path / "calm", *more)
    out = tmp_path / "storm"
    with StubProcess(tmp_path / "stub") as endpoint:
        args = [*stage_args("teacher.yaml", avqa, endpoint.url, out), *more, *OUTLASTING]
        for endpoint_dies, stage_dies in ((3, 9), (15, 21)):
            process = forked(stage, [*args, "--model.init_args.endpoint.in_flight=3"], log=tmp_path / "log")
            wait_for(endpoint_dies, out, process)
            endpoint.die_for_a_while()
            wait_for(stage_dies, out, process)
            process.kill()
            process.join(10)
            assert len(records_so_far(out)) < 36, "it was over before it was killed"
        run_teacher(endpoint.url, out, *more, *OUTLASTING)
        counts = endpoint.counts()
    assert endpoint.starts == 3
    assert all(counts[fault] for fault in FAULTS), counts
    assert sum(counts[fault] for fault in FAULTS) > 0.1 * sum(counts.values())
    calm, storm = (
        sorted(dataclasses.replace(t, created=None).to_json() for t in records(folder / "traces", Trace))
        for folder in (tmp_path / "calm", out)
    )
    assert calm == storm and len(calm) == 36
    assert records(out / "errors", RequestError) == []


def test_verdicts_under_faults_with_an_endpoint_killed_twice_equal_calm_ones(run_verify: Stage, tmp_path: Path) -> None:
    traces = [
        Trace(f"avqa/train/{q}", s, f"I hear {q} dogs and {s} cats.", OPTIONS[0], "t")
        for q in range(12)
        for s in range(2)
    ]
    write_jsonl(tmp_path / "traces" / "rank-00000.jsonl", traces)
    with StubEndpoint() as stub:
        run_verify(stub.url, tmp_path / "calm", tmp_path / "traces")
    out = tmp_path / "storm"
    with StubProcess(tmp_path / "stub") as endpoint:
        times = [lambda number=number: len(records_so_far(out, "verdicts")) >= number for number in (4, 14)]
        with endpoint.dying(times):
            more = [*OUTLASTING, "--model.init_args.endpoint.in_flight=2"]
            run_verify(endpoint.url, out, tmp_path / "traces", *more)
        counts = endpoint.counts()
    assert all(counts[fault] for fault in FAULTS), counts
    calm, storm = (
        sorted(verdict.to_json() for verdict in records(folder / "verdicts", Verdict))
        for folder in (tmp_path / "calm", out)
    )
    assert calm == storm and len(calm) == 24
    assert 0 < sum('"accepted": true' in line for line in calm) < 24
    assert records(out / "errors", RequestError) == []


def wait_for(number: int, out: Path, process: BaseProcess) -> None:
    until = time.monotonic() + 90
    while len(records_so_far(out)) < number:
        assert process.is_alive() and time.monotonic() < until
        time.sleep(0.02)


def records_so_far(out: Path, folder: str = "traces") -> list[bytes]:
    shard = out / folder / "rank-00000.jsonl"
    return shard.read_bytes().splitlines() if shard.exists() else []


def test_two_machines_share_the_questions_and_a_later_single_rank_goes_on(
    run_teacher: Stage, avqa: Path, tmp_path: Path
) -> None:
    """Two nodes of one process each, as Lightning starts them from NODE_RANK, MASTER_ADDR and MASTER_PORT."""
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "rank-00001.jsonl").write_text('{"schema": "trace/1", "ques')  # torn by a crash
    with StubEndpoint() as stub:
        args = [*stage_args("teacher.yaml", avqa, stub.url, tmp_path), "--model.init_args.samples=3"]
        nodes = ["--trainer.num_nodes=2", "--trainer.devices=1", "--trainer.strategy=ddp", "--data.init_args.limit=8"]
        run_machines([*args, *nodes], tmp_path / "logs")
        assert stub.counts["requests"] == stub.counts["answered"] == 8, "each question once"
        shards = [records(tmp_path / "traces", Trace, f"rank-{rank:05d}.jsonl") for rank in range(2)]
        assert [{t.question_id for t in shard} for shard in shards] == [
            {f"avqa/train/{q}" for q in range(rank, 8, 2)} for rank in range(2)
        ]
        assert [len(shard) for shard in shards] == [12, 12]
        assert len({usage.run for usage in records(tmp_path / "usage", Usage)}) == 2
        report = json.loads((tmp_path / "report.json").read_text())
        assert (report["types"][-1]["questions"], report["types"][-1]["traces"], report["requests"]) == (8, 24, 8)
        run_teacher(stub.url, tmp_path)
        assert stub.counts["requests"] == 12, "a single rank finds what both have written"
    assert sorted((t.question_id, t.sample) for t in records(tmp_path / "traces", Trace)) == EXPECTED
