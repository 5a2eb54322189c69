"""Weights sharded over two ranks (FSDP2): checkpoints are whole or absent, and a resumed run is the same."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.integration.interruptions.test_sigkill import config
from tests.support.ranks import run_ranks, stage


def sharded(world: Path, root: Path, distributed_checkpoint: bool = False) -> dict[str, Any]:
    values = config("sft", world, root)
    values["model"]["init_args"].pop("lora")
    values["trainer"] |= {
        "devices": 2,
        "strategy": {
            "class_path": "ModelParallelStrategy",
            "init_args": {
                "data_parallel_size": 2,
                "tensor_parallel_size": 1,
                "save_distributed_checkpoint": distributed_checkpoint,
                "process_group_backend": "gloo",
            },
        },
        "limit_val_batches": 0,  # in-process rollouts need whole weights
        "num_sanity_val_steps": 0,
        "max_steps": 4,
    }
    values["trainer"]["callbacks"] = values["trainer"]["callbacks"][2:]
    return values


def fit(values: dict[str, Any], root: Path, *more: str) -> None:
    root.mkdir(exist_ok=True)
    (root / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    run_ranks(stage, ["fit", "--config", str(root / "config.yaml"), *more], root, folder=root.with_suffix(".logs"))


@pytest.fixture(scope="module")
def uninterrupted(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sharded") / "whole"
    fit(sharded(world, root), root)
    return root


@pytest.mark.parametrize("distributed", [False, True], ids=["one file", "a part of each rank"])
def test_resumed_run_is_the_same(uninterrupted: Path, world: Path, tmp_path: Path, distributed: bool) -> None:
    parts = tmp_path / "parts"
    values = sharded(world, parts, distributed)
    shorter = copy.deepcopy(values)
    shorter["trainer"]["max_steps"] = 3
    fit(shorter, parts)
    last = parts / "checkpoints" / "last.ckpt"
    assert last.is_dir() if distributed else last.is_file()
    if distributed:
        assert len(list(last.glob("*.distcp"))) == 2
        assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]
        shutil.copytree(last, last.with_name(".last.ckpt.partial"))  # of a run that was killed while it wrote the next
        (last.with_name(".last.ckpt.partial") / "__0_0.distcp").write_bytes(b"torn")
    fit(values, parts, "--ckpt_path", "last")
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]
    expected, found = (load_file(folder / "best" / "model.safetensors") for folder in (uninterrupted, parts))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-6), name
    student = load_file(world / "student" / "model.safetensors")
    assert any(not torch.equal(found[name], value) for name, value in student.items())
