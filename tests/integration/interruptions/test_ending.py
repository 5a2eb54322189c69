"""Stages that are ended by a signal: soon, with what was written, and with the status that shells expect."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from benchmarks.stub_endpoint import StubEndpoint
from cli.ending import ended_by_signals
from records.records import Trace, Verdict, write_jsonl
from runtime.uninterrupted import uninterrupted
from tests.support.ranks import forked, stage
from tests.support.stages import OPTIONS, Stage, records, stage_args

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stage_ends_at_once_and_goes_on_later(
    run_verify: Stage, avqa: Path, tmp_path: Path, number: int, status: int
) -> None:
    """Each item has three checks of which the third hangs: the verdicts that were paid for are kept."""
    traces = [Trace(f"avqa/train/{q}", s, f"I hear {s} dogs.", OPTIONS[0], "t") for q in range(12) for s in range(3)]
    write_jsonl(tmp_path / "traces" / "rank-00000.jsonl", traces)
    out = tmp_path / "out"

    class Hanging(StubEndpoint):
        async def _respond(self, body: dict[str, Any], headers: dict[str, str], writer: Any) -> bool:
            self.latency = 30.0 if "I hear 2 dogs" in str(body["messages"]) else 0.0
            return await super()._respond(body, headers, writer)

    with Hanging() as stub:
        args = [*stage_args("verify.yaml", avqa, stub.url, out), f"--data.init_args.traces={tmp_path / 'traces'}"]
        args += ["--model.init_args.endpoint.timeout=60", "--data.init_args.num_workers=1"]
        process = forked(stage, args, log=tmp_path / "log")
        until = time.monotonic() + 120
        while stub.counts["requests"] < 36 and time.monotonic() < until:
            assert process.is_alive()
            time.sleep(0.02)
        time.sleep(1.0)  # the stage reads what was answered
        begun = time.monotonic()
        os.kill(process.pid or 0, number)
        process.join(30)
        took = time.monotonic() - begun
    said = (tmp_path / "log").read_text()
    assert process.exitcode == status and "Traceback" not in said, said
    assert f"ended by {signal.Signals(number).name}" in said
    assert took < 6, f"{took:.1f} s"  # below one on a machine that does nothing else
    kept = {(v.question_id, v.sample) for v in records(out / "verdicts", Verdict)}
    assert kept and kept <= {(f"avqa/train/{q}", s) for q in range(12) for s in range(2)}
    with StubEndpoint() as stub:
        run_verify(stub.url, out, tmp_path / "traces")
        assert stub.counts["requests"] == 36 - len(kept)
    assert len({(v.question_id, v.sample) for v in records(out / "verdicts", Verdict)}) == 36


class TermAt(Callback):
    """Sends the process SIGTERM when a training batch begins, once or twice."""

    def __init__(self, batch: int, times: int = 1) -> None:
        self.batch = batch
        self.times = times

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.batch:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    "validation",
    ["limit_val_batches: 0", "{limit_val_batches: 2, val_check_interval: 4, num_sanity_val_steps: 0}"],
    ids=["alone", "before_a_validation"],
)
@pytest.mark.parametrize(("times", "batches"), [(1, 4), (2, None)])
def test_training_ends_after_the_batch_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, batches: int | None, validation: str
) -> None:
    from train import main

    before = signal.getsignal(signal.SIGTERM)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
trainer:
  default_root_dir: {tmp_path}
  accelerator: cpu
  max_steps: 8
  enable_progress_bar: false
  enable_model_summary: false
  {validation.strip("{}").replace(", ", chr(10) + "  ")}
  callbacks:
    - class_path: tests.integration.interruptions.test_ending.TermAt
      init_args: {{batch: 3, times: {times}}}
    - class_path: callbacks.LastCheckpoint
model:
  class_path: lightning.pytorch.demos.boring_classes.BoringModel
data:
  class_path: lightning.pytorch.demos.boring_classes.BoringDataModule
"""
    )
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", str(config)])
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert last.exists() == (batches is not None)
    if batches is not None:
        assert torch.load(last, weights_only=False)["global_step"] == batches
        more = ["--ckpt_path", "last", "--trainer.callbacks+=tests.integration.interruptions.test_ending.Steps"]
        assert main(["fit", "--config", str(config), *more]).trainer.global_step == 8


class Steps(Callback):
    """Only there to be named."""


def test_a_signal_waits_for_what_may_not_be_interrupted() -> None:
    done = []
    with pytest.raises(SystemExit) as ended, ended_by_signals():
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)
            done.append("written")
        done.append("not reached")
    assert done == ["written"] and ended.value.code == 143


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with ended_by_signals(), uninterrupted():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    with pytest.raises(SystemExit) as ended, ended_by_signals():
        os.kill(os.getpid(), signal.SIGHUP)
    assert ended.value.code == 129


def test_an_interrupted_stage_needs_no_traceback_before_it_begins() -> None:
    with pytest.raises(SystemExit) as ended, ended_by_signals():
        raise KeyboardInterrupt
    assert ended.value.code == 130


def test_what_ending_brings_about_is_not_the_end() -> None:
    """A library's clean-up fails where it was interrupted before it had begun."""
    with pytest.raises(SystemExit) as ended, ended_by_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)
        finally:
            raise RuntimeError("nothing to clean up")
    assert ended.value.code == 143
    with pytest.raises(RuntimeError, match="of its own"), ended_by_signals():
        raise RuntimeError("of its own")


class Finalized:
    """Gets a signal where Python drops what is raised."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_is_not_lost_where_python_drops_exceptions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, ended_by_signals():
        del (lambda: [Finalized()])()[:]
        until = time.monotonic() + 10
        while time.monotonic() < until:
            time.sleep(0.01)
    assert ended.value.code == 143 and "Exception ignored" not in capsys.readouterr().err


def test_a_signal_is_not_lost_while_workers_are_forked(capfd: pytest.CaptureFixture[str]) -> None:
    """Every process forks its workers with hooks, those of ``logging`` for one."""
    with pytest.raises(SystemExit) as ended, ended_by_signals():
        signals = [signal.SIGTERM]
        os.register_at_fork(after_in_parent=lambda: signals and os.kill(os.getpid(), signals.pop()))
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            time.sleep(0.01)
    assert ended.value.code == 143 and "Exception ignored" not in capfd.readouterr().err
