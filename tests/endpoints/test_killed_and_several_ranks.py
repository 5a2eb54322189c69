"""The stage in processes of its own: killed with SIGKILL and begun again, and shared by two ranks."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.stub_endpoint import StubEndpoint
from datamodules.records import Trace
from tests.endpoints.stages import Stage, records, stage_args

ROOT = Path(__file__).parents[2]
EXPECTED = sorted((f"avqa/train/{q}", s) for q in range(12) for s in range(3))


def start(args: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.endpoints.killed_stage", *args]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_killed_twice_under_faults_equals_a_calm_run(run_teacher: Stage, avqa: Path, tmp_path: Path) -> None:
    one_by_one = ["--model.init_args.n_in_one_request=false", "--model.init_args.samples=3"]
    with StubEndpoint() as stub:
        run_teacher(stub.url, tmp_path / "calm", *one_by_one)
    out = tmp_path / "storm"
    with StubEndpoint(latency=0.15, fault_rate=0.2, hang=0.6) as stub:
        args = [*stage_args("teacher.yaml", avqa, stub.url, out), *one_by_one, "--model.init_args.endpoint.in_flight=3"]
        for kill_after in (6, 18):
            process = start(args)
            until = time.monotonic() + 90
            while len(records_so_far(out)) < kill_after:
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait(10)
            assert len(records_so_far(out)) < 36, "it was over before it was killed"
        run_teacher(stub.url, out, *one_by_one)
    calm, storm = (
        sorted(dataclasses.replace(t, created=None, endpoint="").to_json() for t in records(folder / "traces", Trace))
        for folder in (tmp_path / "calm", out)
    )
    assert calm == storm and len(calm) == 36


def records_so_far(out: Path) -> list[bytes]:
    shard = out / "traces" / "rank-00000.jsonl"
    return shard.read_bytes().splitlines() if shard.exists() else []


def test_two_ranks_share_the_questions_and_a_later_single_rank_goes_on(
    run_teacher: Stage, avqa: Path, tmp_path: Path
) -> None:
    with StubEndpoint() as stub:
        args = [*stage_args("teacher.yaml", avqa, stub.url, tmp_path), "--model.init_args.samples=3"]
        two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.init_args.limit=8"]
        process = start([*args, *two])
        assert process.wait(120) == 0
        shards = sorted((tmp_path / "traces").glob("*.jsonl"))
        assert [shard.name for shard in shards] == ["rank-00000.jsonl", "rank-00001.jsonl"]
        assert all(len(shard.read_text().splitlines()) == 12 for shard in shards)
        assert stub.counts["answered"] == 8
        run_teacher(stub.url, tmp_path)
        assert stub.counts["answered"] == 12
    assert sorted((t.question_id, t.sample) for t in records(tmp_path / "traces", Trace)) == EXPECTED
