"""SFT and GRPO steps on one rank and on two."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.ranks.training_rank import main
from tests.support.ranks import run_ranks
from tests.support.students import ARCHITECTURES


@pytest.fixture(scope="module", params=["qwen2_audio"])
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(ARCHITECTURES[request.param](tmp_path_factory.mktemp("student"), seconds=2))


def run(stage: str, weights: str, strategy: str, folder: Path) -> dict:
    output = folder / f"{strategy}.json"
    run_ranks(main, stage, weights, strategy, str(output), folder=folder / "logs", ranks=1 if strategy == "auto" else 2)
    return json.loads(output.read_text())


@pytest.mark.parametrize(
    ("weights", "stage"),
    [
        ("qwen2_audio", "sft"),
        ("qwen2_audio", "micro"),
        ("qwen2_audio", "grpo"),
        ("qwen2_audio", "lora"),
        ("qwen2_5_omni", "sft"),
    ],
    indirect=["weights"],
)
def test_two_ranks_and_one_rank_agree(weights: str, tmp_path: Path, stage: str) -> None:
    """The same global batch on one process and split over two (gloo) gives the same losses and weights."""
    one = run(stage, weights, "auto", tmp_path)
    for strategy in ("ddp", "fsdp"):
        two = run(stage, weights, strategy, tmp_path)
        assert one["losses"] == pytest.approx(two["losses"], abs=1e-5, rel=1e-5)
        assert one["norm"] == pytest.approx(two["norm"], rel=1e-6)
        assert one["moved"] == pytest.approx(two["moved"], rel=1e-3)
        assert one["accuracy"] == pytest.approx(two["accuracy"])
        assert one["questions"] == two["questions"] == 5
        exported = load_file(tmp_path / strategy / "model.safetensors")
        for name, value in load_file(tmp_path / "auto" / "model.safetensors").items():
            torch.testing.assert_close(exported[name], value, atol=3e-5 if stage == "grpo" else 3e-3, rtol=0)
