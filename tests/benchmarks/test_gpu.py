"""The benchmark for one GPU runs on the CPU with a tiny student, and what it compares is equal."""

import argparse
import dataclasses
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import ipc_receiver, learner, split_student
from benchmarks.gpu.device import Device, attempt, out_of_memory
from benchmarks.gpu.part import PARTS, SIZES
from benchmarks.gpu.report import best
from benchmarks.gpu.split_attention import Segments, repeated_keys_attention, split_attention
from benchmarks.gpu.step_profile import Watch, read_trace
from benchmarks.gpu.work import Record, Work, new_batch
from lightning_modules.models.shared_prompt import pack_groups, shared_prompt_attention

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = Work("tiny", device="cpu", dtype="float32", **SIZES["tiny"])


@pytest.mark.parametrize("attend", [split_attention, repeated_keys_attention])
def test_attention_without_mask_equals_the_dense_one_and_the_student_s(attend):
    generator = torch.Generator().manual_seed(0)
    prompts, lengths = np.array([5, 3]), np.array([[2, 4, 1], [3, 1, 4]])
    segments = Segments.of(prompts, lengths)
    rows = int(prompts.sum() + lengths.sum())
    q, k, v = (torch.randn(1, heads, rows, 8, generator=generator).requires_grad_() for heads in (4, 2, 2))
    gradient = torch.randn(1, rows, 4, 8, generator=generator)

    def outcome(way):
        out = way(q, k, v)
        return [out, *torch.autograd.grad(out, (q, k, v), gradient)]

    def dense(q, k, v):
        scores = q @ k.repeat_interleave(2, 1).transpose(-1, -2) * 0.3
        weights = scores.masked_fill(~segments.dense(), float("-inf")).softmax(-1)
        return (weights @ v.repeat_interleave(2, 1)).transpose(1, 2)

    layout = pack_groups(torch.ones(2, 5).long(), prompts, torch.ones(2, 3, 4).long(), lengths).layout
    wanted = outcome(dense)
    for way in (
        lambda q, k, v: attend(q, k, v, segments, 0.3),
        lambda q, k, v: shared_prompt_attention(torch.nn.Identity(), q, k, v, None, 0.3, shared_prompt=layout)[0],
    ):
        for found, exact in zip(outcome(way), wanted, strict=True):
            torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-5)


def test_who_sees_whom_by_hand():
    """One prompt of two tokens, completions of one and of two."""
    seen = Segments.of(np.array([2]), np.array([[1, 2]])).dense().int().tolist()
    assert seen == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]


def test_the_receiver_of_a_push_answers_as_a_server_does():
    """All but the memory of a GPU: what vLLM's own engine is told, and that changed and exchanged bytes show."""
    engine = ipc_receiver.Engine(ipc_receiver.Kept())
    state = ipc_receiver.State(engine)
    ipc_receiver.answer(state, "/init_weight_transfer_engine", {"init_info": {"packed": True}})
    assert engine.packed
    with pytest.raises(ValueError, match="invented"):
        ipc_receiver.answer(state, "/init_weight_transfer_engine", {"init_info": {"invented": 1}})
    engine.kept["weight"] = torch.tensor([3, 5], dtype=torch.uint8)
    assert ipc_receiver.answer(state, "/fingerprints", {}) == {"fingerprints": {"weight": [8, 5]}}
    engine.model.load_weights([("weight", torch.tensor([5, 3], dtype=torch.uint8))])
    assert ipc_receiver.answer(state, "/fingerprints", {}) == {"fingerprints": {"weight": [8, 3]}}
    ipc_receiver.answer(state, "/finish_weight_update", {"weight_version": "run:1"})
    assert ipc_receiver.answer(state, "/weight_info", {}) == {"weight_version": "run:1"}


@pytest.mark.integration
def test_both_learners_score_alike(tmp_path: Path):
    none = dataclasses.replace(TINY, largest=0)
    ours, theirs = Record(tmp_path / "ours.json", 100.0), Record(tmp_path / "theirs.json", 100.0)
    learner.measure_grpo(none, ours)
    learner.measure_conventional(none, theirs)
    found = json.loads((tmp_path / "ours.json").read_text())
    assert len(found["check"]) == 16 and found["check"] == pytest.approx(theirs.figures["check"], abs=1e-4)
    split_student.measure(none, theirs)
    assert theirs.figures["check"] == pytest.approx(found["check"], abs=1e-4)


@pytest.mark.integration
def test_sizes_rise_until_memory_does_not_suffice(tmp_path: Path):
    record = Record(tmp_path / "part.json", 100.0)

    def measure(size: int) -> dict[str, float]:
        if size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"completions_per_s": 4.0 / size}

    learner.ladder(record, Device("cpu"), "rows", [1, 2, 4, 8], measure, way="ours")
    rows = json.loads((tmp_path / "part.json").read_text())["rows"]
    assert [(row["size"], "error" in row) for row in rows] == [(1, False), (2, False), (4, True)]
    assert best(rows) == rows[0] and rows[2]["way"] == "ours"
    late = Record(tmp_path / "late.json", 1e-9)
    learner.ladder(late, Device("cpu"), "rows", [1, 2, 4], measure)
    assert [row.get("error") for row in late.figures["rows"]] == ["left out: no time left"]


def test_a_batch_is_what_the_geometry_says():
    work = Work(device="cpu")
    batch = new_batch(work, 2)
    assert (batch.prompt_ids == work.audio_token).sum(1).tolist() == [250, 250]
    assert all(300 <= length <= 320 for length in batch.prompt_lengths)
    assert batch.completions is not None and batch.completions.ids.shape == (2, 8, 200)
    again = new_batch(work, 2)
    assert torch.equal(again.prompt_ids, batch.prompt_ids) and torch.equal(again.features, batch.features)


def test_idle_share_by_hand(tmp_path: Path):
    """Kernels from 0 to 10, 5 to 15 and 30 to 40, a copy from 35 to 50 us: 35 of 50 us are busy."""
    events = [
        {"ph": "X", "cat": "kernel", "name": "a", "ts": 0, "dur": 10},
        {"ph": "X", "cat": "kernel", "name": "b", "ts": 5, "dur": 10},
        {"ph": "X", "cat": "kernel", "name": "a", "ts": 30, "dur": 10},
        {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy DtoH", "ts": 35, "dur": 15},
        {"ph": "X", "cat": "gpu_user_annotation", "name": "step", "ts": 0, "dur": 50},
        {"ph": "X", "cat": "cuda_runtime", "name": "cudaStreamSynchronize", "ts": 51, "dur": 1},
        {"ph": "i", "name": "mark", "ts": 3},
    ]
    (tmp_path / "trace.json").write_text(json.dumps({"traceEvents": events}))
    found = read_trace(tmp_path / "trace.json")
    assert found["idle_share"] == pytest.approx(0.3) and found["span_ms"] == 0.05
    assert found["launches"] == 4 and found["copies"] == 1 and found["waits"]["cudaStreamSynchronize"] == 1
    assert found["costliest"][0] == {"name": "a", "ms": 0.02, "share": pytest.approx(20 / 45, abs=1e-4), "calls": 2}


def test_waits_are_named_by_the_line_that_waits(tmp_path: Path):
    watch = Watch(Device("cpu"), tmp_path / "trace.json")
    watch._count()
    for _ in range(2):
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
    warnings.warn("something else", stacklevel=1)
    watch._caught.__exit__(None, None, None)
    assert len(watch.places) == 1
    place, count = watch.places.most_common(1)[0]
    assert place.startswith("tests/benchmarks/test_gpu.py:") and count == 2


def test_a_failure_is_a_row_and_out_of_memory_is_known():
    def fails():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    row = attempt(fails)
    assert row["error"].startswith("OutOfMemoryError: CUDA out of memory") and out_of_memory(row)
    assert not out_of_memory(attempt(lambda: {"ms": 1.0}))


def test_a_part_that_hangs_or_fails_keeps_its_figures_and_the_rest_goes_on(tmp_path: Path, monkeypatch):
    script = tmp_path / "python"
    script.write_text(
        '#!/bin/sh\nread settings\necho \'{"torch": "1"}\' > "$4"\n'
        'case "$3" in facts) sleep 60;; grpo) exit 3;; push) echo "{}" > "$4"; exit 0;; esac\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(command, "LEAST", 0.2)
    monkeypatch.setitem(command.PARTS, "facts", PARTS["facts"]._replace(limit=0.5))
    options = argparse.Namespace(minutes=1.0, patience=1.0, output=tmp_path, parts=["facts", "grpo", "push"])
    report = {"command": "", "commit": "", "machine": "", "versions": {}, "parts": {}}
    command.run(options, {}, report)
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert found["facts"]["torch"] == "1" and found["facts"]["error"] == "ended after its limit of 0 s"
    assert found["grpo"]["error"] == "the process ended with 3"
    assert "error" not in found["push"]
    assert "Failed: the process ended with 3" in (tmp_path / "gpu.md").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gpu.json", "gpu.md", "python"]
    options.minutes, report["parts"] = 0.0, {}
    command.run(options, {}, report)
    assert {part["error"] for part in report["parts"].values()} == {"left out: the time was used up"}


@pytest.mark.slow
def test_the_command_measures_all_parts(tmp_path: Path):
    arguments = [
        "--output",
        str(tmp_path),
        "--geometry",
        "tiny",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--patience",
        "3",
    ]
    subprocess.run([sys.executable, "-m", "benchmarks.gpu", *arguments], check=True, cwd=command_root())
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert list(report["parts"]) == list(PARTS)
    assert all("error" not in part for part in report["parts"].values())
    assert report["parts"]["push"]["equal"] == {"largest_difference": 0.0}
    text = (tmp_path / "gpu.md").read_text()
    assert "Not all figures" not in text and "Failed" not in text


def command_root() -> Path:
    return Path(command.__file__).parents[2]
