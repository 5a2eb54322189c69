"""The learner's benchmark runs, and what it compares is equal."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.learner.__main__ import main
from benchmarks.measuring.learner_steps import Conventional, Ours, Setting
from benchmarks.measuring.learner_world import build_world
from benchmarks.measuring.needed_flops import audio_flops, forward_flops, layer_weights
from benchmarks.measuring.shapes import SHAPES
from lightning_modules.grpo import GRPOModule
from lightning_modules.sft import SFTModule

pytestmark = pytest.mark.usefixtures("one_thread")
WORLD = build_world(1024)
SMALL = ["--shape", "tiny", "--questions", "1", "--group", "2", "--tokens", "8", "--seconds", "1", "--threads", "1"]


@pytest.fixture
def measure(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def run(*arguments: str) -> dict[str, Any]:
        main([*SMALL, "--rounds", "1", "--no-memory", "--output", str(tmp_path), *arguments])
        return dict(json.loads((tmp_path / "learner.json").read_text()))

    return run


@pytest.mark.integration
def test_the_gpu_script_runs_on_the_cpu_with_a_tiny_shape(measure: Callable[..., dict[str, Any]], tmp_path: Path):
    report = measure("--tasks", "grpo", "--backends")
    row = report["results"]["grpo"]
    assert row["largest_difference"] < 1e-4
    assert row["ours"]["completion_tokens_per_s"] > 0 and row["ours"]["flops_utilisation"] > 0
    parts = {"reference audio", "policy head", "backward language model", "backward optimizer"}
    assert parts <= row["ours"]["parts"].keys() == row["conventional"]["parts"].keys()
    assert report["attention"]["MATH"]["median"] > 0
    assert "| grpo |" in (tmp_path / "learner.md").read_text() and (tmp_path / "learner.png").exists()


@pytest.mark.parametrize(("case", "module"), [("grpo", GRPOModule), ("sft", SFTModule), ("sft cached", SFTModule)])
def test_what_is_timed_is_the_module_s_own_step(case: str, module: type, monkeypatch: pytest.MonkeyPatch):
    """A step that takes 0.3 s longer is read as that much longer; both sides compute the same, and nothing moves."""
    own = module.training_step

    def slow(*args: Any) -> Any:
        time.sleep(0.3)
        return own(*args)

    setting = Setting(SHAPES["tiny"])
    ours, other = Ours(setting, WORLD), Conventional(setting, WORLD)
    before = [p.clone() for _, p in ours.student.trainable_parameters()]
    batch = WORLD.grpo_batch(1, 2, 8, 1.0) if case == "grpo" else WORLD.collator(WORLD.sft_examples(2, 1, 1.0))
    theirs, step = other.steps(case, batch)
    monkeypatch.setattr(module, "training_step", slow)
    mine = ours.take(case, batch, 2, between=step)
    assert len(mine.seconds) == len(theirs.seconds) == 2 and min(mine.seconds) > 0.3
    for parts, seconds in zip(mine.parts, mine.seconds, strict=True):
        assert sum(parts.values()) == pytest.approx(seconds)
    assert mine.parts[-1][f"{'reference' if case == 'grpo' else 'policy'} audio"] > 0.3
    torch.testing.assert_close(mine.result, theirs.result, atol=1e-4, rtol=0)
    assert all(torch.equal(a, p) for a, (_, p) in zip(before, ours.student.trainable_parameters(), strict=True))


def test_where_memory_does_not_suffice_there_are_no_figures(monkeypatch: pytest.MonkeyPatch):
    def exhausted(*_: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    ours = Ours(Setting(SHAPES["tiny"]), WORLD)
    monkeypatch.setattr(GRPOModule, "training_step", exhausted)
    assert ours.take("grpo", WORLD.grpo_batch(1, 2, 8, 1.0), 2).summary() == {"seconds": None, "parts": {}}


@pytest.mark.server
@pytest.mark.slow
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
    batch = WORLD.grpo_batch(1, 2, 8, 1.0)
    prompt = int(batch.prompt_lengths[0])
    language, head = forward_flops(shape, batch)
    assert head == 2 * 16 * 64 * 1024
    pairs = prompt**2 / 2 + 2 * (8 * prompt + 8**2 / 2)
    assert language == pytest.approx(2 * (prompt + 16) * 36_864 * 2 + 4 * pairs * 64 * 2)
    assert audio_flops(shape, batch) > 0
