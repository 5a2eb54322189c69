"""Each setting that saves memory makes the plan smaller, by what it is about."""

import json
from pathlib import Path
from typing import Any

import pytest

from planning.estimate import Assumptions
from planning.machine import Machine
from planning.rehearsal import Rehearsed
from planning.report import GIB, host_memory
from planning.stage import Lengths, Stage, rehearse_stage

RANKS, LAYERS, QUESTIONS, GROUP, WIDTH = 4, 2, 2, 4, 256
AUDIO, PROMPT, COMPLETION = 100, 40, 64
"""Tokens; a clip of 4 s has 100 of audio."""


@pytest.fixture(scope="module")
def shallow(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = json.loads((small / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = LAYERS
    config["audio_config"]["encoder_layers"] = 1
    folder = tmp_path_factory.mktemp("shallow")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


MACHINE = Machine("gpu", 8, RANKS, 1, 0, 0.0, 0.1, 10, 1, 1, 24)


def stage_of(folder: Path, **options: Any) -> Stage:
    options |= {"weights": str(folder), "gradient_checkpointing": True}
    strategy = {
        "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
        "init_args": {"data_parallel_size": RANKS, "tensor_parallel_size": 1},
    }
    trainer = {"devices": RANKS, "strategy": strategy, "precision": "bf16-mixed"}
    model = {"class_path": "lightning_modules.SFTModule", "init_args": options}
    return Stage(model, trainer, QUESTIONS, GROUP, Lengths(4.0, PROMPT, COMPLETION))


def rehearsed(folder: Path, **options: Any) -> Rehearsed:
    return rehearse_stage(stage_of(folder, **options), MACHINE)


def host_bytes(found: Rehearsed, folder: Path, **options: Any) -> float:
    """Of a node's main memory, without processes."""
    assumed = Assumptions(process_gib=0, worker_gib=0)
    return host_memory(stage_of(folder, **options), MACHINE, found, assumed, 0) * GIB


@pytest.fixture(scope="module")
def plain(shallow: Path) -> Rehearsed:
    return rehearsed(shallow)


def test_weights_gathered_in_bfloat16_take_half(shallow: Path, plain: Rehearsed) -> None:
    wide = rehearsed(shallow, sharding={"param_dtype": "float32"})
    assert plain.peak.bytes < wide.peak.bytes
    assert plain.peak.kinds["gathered weights"] <= 0.6 * wide.peak.kinds["gathered weights"]
    assert plain.collectives.bytes["all-gather"] == pytest.approx(wide.collectives.bytes["all-gather"] / 2, rel=0.01)
    for found in (plain, wide):  # gradients are summed in float32, a fourth on each rank
        assert found.collectives.bytes["reduce-scatter"] == pytest.approx(found.trained, rel=0.01)
        assert found.peak.kinds["weights"] == pytest.approx(found.trained / RANKS, rel=0.05)


def test_activations_go_to_main_memory(shallow: Path, plain: Rehearsed) -> None:
    offloaded = rehearsed(shallow, activation_offload=True)
    values = QUESTIONS * (AUDIO + PROMPT + GROUP * COMPLETION) * WIDTH
    # each layer's input in bfloat16, and that of the last norm with a scale in float32 for each row
    assert offloaded.peak.elsewhere == pytest.approx(values * (2 * LAYERS + 2 + 4 / WIDTH), rel=0.01)
    assert plain.peak.elsewhere == 0
    assert offloaded.peak.bytes < plain.peak.bytes


def test_moments_of_8_bits_take_a_fourth(shallow: Path, plain: Rehearsed) -> None:
    low = rehearsed(shallow, optimizer="adamw8bit")
    before, after = (found.peak.kinds["optimizer state"] for found in (plain, low))
    assert before == pytest.approx(2 * plain.trained / RANKS, rel=0.05)
    assert after < 0.3 * before
    assert low.peak.bytes == pytest.approx(plain.peak.bytes - before + after, rel=0.02)
    # but not in checkpoints, of which each rank has a copy of its part while it is written
    wanted = plain.weights + 3 * plain.trained
    assert host_bytes(low, shallow, optimizer="adamw8bit") == pytest.approx(wanted, rel=0.01)
    assert host_bytes(plain, shallow) == pytest.approx(wanted, rel=0.01)


def test_copies_take_more_memory_and_gather_among_fewer(shallow: Path, plain: Rehearsed) -> None:
    copies = rehearsed(shallow, sharding={"replicas": 2})
    assert copies.peak.kinds["weights"] == pytest.approx(2 * plain.peak.kinds["weights"], rel=0.05)
    assert copies.collectives.bytes["all-gather"] == pytest.approx(plain.collectives.bytes["all-gather"], rel=0.01)
    # a half of the gradients, which a rank has when they are spread over two, is summed over the two copies
    assert copies.collectives.bytes["all-reduce"] == pytest.approx(copies.trained / 2, rel=0.05)
    both = plain.weights + 2 * 3 * plain.trained  # on the only node
    assert host_bytes(copies, shallow, sharding={"replicas": 2}) == pytest.approx(both, rel=0.01)
