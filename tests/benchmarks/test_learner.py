"""The learner's benchmark runs, and what it compares is equal."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.learner import main
from benchmarks.learner_world import SHAPES, build_world
from benchmarks.needed_flops import audio_flops, forward_flops, layer_weights


def test_the_gpu_script_runs_on_the_cpu_with_a_tiny_shape(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    small = ["--questions", "1", "--group", "2", "--tokens", "8", "--seconds", "1", "--threads", "1"]
    main(
        [
            "--shape",
            "tiny",
            "--rounds",
            "1",
            "--no-memory",
            "--tasks",
            "grpo",
            "--output",
            str(tmp_path),
            "--backends",
            *small,
        ]
    )
    torch.set_num_threads(threads)
    report = json.loads((tmp_path / "learner.json").read_text())
    row = report["results"]["grpo"]
    assert row["largest_difference"] < 1e-4
    assert row["ours"]["completion_tokens_per_s"] > 0 and row["ours"]["flops_utilisation"] > 0
    assert {"reference audio", "policy head", "backward language model"} <= row["ours"]["parts"].keys()
    assert report["attention"]["MATH"]["median"] > 0
    assert "| grpo |" in (tmp_path / "learner.md").read_text() and (tmp_path / "learner.png").exists()


def test_needed_operations_by_hand() -> None:
    """The tiny shape: width 64, mlp 128, 2 heads of 32, 1 key head, 2 layers, vocabulary 1024."""
    shape = SHAPES["tiny"]
    # q and o: 64 * 64 each; k and v: 64 * 32 each; three of the mlp: 64 * 128
    assert layer_weights(shape) == 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 == 36_864
    batch = build_world(1024).grpo_batch(1, 2, 8, 1.0)
    prompt = int(batch.prompt_lengths[0])
    language, head = forward_flops(shape, batch)
    assert head == 2 * 16 * 64 * 1024
    pairs = prompt**2 / 2 + 2 * (8 * prompt + 8**2 / 2)
    assert language == pytest.approx(2 * (prompt + 16) * 36_864 * 2 + 4 * pairs * 64 * 2)
    assert audio_flops(shape, batch) > 0
