"""The learner's benchmark runs, and what it compares is equal."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.learner import main
from benchmarks.learner_world import build_world
from benchmarks.needed_flops import audio_flops, forward_flops, layer_weights
from benchmarks.shapes import SHAPES

SMALL = ["--shape", "tiny", "--questions", "1", "--group", "2", "--tokens", "8", "--seconds", "1", "--threads", "1"]


@pytest.fixture
def measure(tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    def run(*arguments: str) -> dict[str, Any]:
        main([*SMALL, "--rounds", "1", "--no-memory", "--output", str(tmp_path), *arguments])
        return dict(json.loads((tmp_path / "learner.json").read_text()))

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


@pytest.mark.integration
def test_the_gpu_script_runs_on_the_cpu_with_a_tiny_shape(measure: Callable[..., dict[str, Any]], tmp_path: Path):
    report = measure("--tasks", "grpo", "--backends")
    row = report["results"]["grpo"]
    assert row["largest_difference"] < 1e-4
    assert row["ours"]["completion_tokens_per_s"] > 0 and row["ours"]["flops_utilisation"] > 0
    assert {"reference audio", "policy head", "backward language model"} <= row["ours"]["parts"].keys()
    assert report["attention"]["MATH"]["median"] > 0
    assert "| grpo |" in (tmp_path / "learner.md").read_text() and (tmp_path / "learner.png").exists()


@pytest.mark.server
def test_the_whole_step_has_rollout_learner_and_weight_push(measure: Callable[..., dict[str, Any]]):
    whole = measure("--tasks", "step")["whole_step"]
    assert whole["ours"]["parts"].keys() == {"rollout", "learner", "weight push"}
    assert whole["conventional"]["parts"].keys() == {"rollout", "learner"}
    for system in whole.values():
        assert min(system["parts"].values()) > 0 and 2 <= system["tokens"] <= 16
        assert sum(system["parts"].values()) < 1.5 * system["seconds"]["median"]


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
