"""A checkpoint on disk is exported as the run would have done, one weight in memory at a time."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from callbacks.checkpoints.checkpoint_export import export_checkpoint
from callbacks.checkpoints.export_place import refuse_export_place
from lightning_modules.models import frozen_weights
from lightning_modules.models.adapters import LoRASettings
from lightning_modules.models.checkpoints.loading import loading
from lightning_modules.models.checkpoints.sharded_checkpoint import PLAIN_VALUES, WEIGHT
from lightning_modules.sft import SFTModule
from runtime.errors import UserError
from tests.support.tiny_model import build


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    build(folder)
    return folder


@pytest.mark.parametrize("kind", ["adapters", "adapters on bfloat16", "all weights"])
def test_one_file_and_many(weights: Path, tmp_path: Path, kind: str) -> None:
    low = "bfloat16" in kind

    def make(in_bfloat16: bool) -> Any:
        with loading(frozen_in_bfloat16=in_bfloat16):
            lora = {"lora": LoRASettings(rank=2, target_modules=["q_proj", "lm_head"])}
            return SFTModule(str(weights), **(lora if "adapters" in kind else {}))

    def without_weights(in_bfloat16: bool) -> Any:
        with loading(deferred=True):
            return make(in_bfloat16)

    module = make(low)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=0.1)
    module.student.save_pretrained(tmp_path / "expected")
    plain = {"global_step": 7, frozen_weights.KEY: frozen_weights.fingerprint(module)}
    torch.save({**plain, "state_dict": module.state_dict()}, tmp_path / "one.ckpt")
    parts = {WEIGHT + name: value for name, value in module.state_dict().items()}
    save(parts, storage_writer=FileSystemWriter(tmp_path / "many.ckpt"), no_dist=True)
    torch.save(plain, tmp_path / "many.ckpt" / PLAIN_VALUES)
    expected = load_file(tmp_path / "expected" / "model.safetensors")
    for name in ("one", "many"):
        export_checkpoint(without_weights, False, tmp_path / f"{name}.ckpt", tmp_path / name)
        found = load_file(tmp_path / name / "model.safetensors")
        assert found.keys() == expected.keys()
        assert all(
            torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in expected.items()
        )
        same = {file.name for file in (tmp_path / "expected").iterdir()} | {"training.json"}
        assert {file.name for file in (tmp_path / name).iterdir()} == same
        refuse_export_place(tmp_path / name, "--directory")  # does not: it is an earlier export


def test_beside_another_base_it_is_refused(weights: Path, tmp_path: Path) -> None:
    module = SFTModule(str(weights), lora=LoRASettings(rank=2))
    plain = {frozen_weights.KEY: frozen_weights.fingerprint(module)}
    torch.save({**plain, "state_dict": module.state_dict()}, tmp_path / "one.ckpt")
    build(tmp_path / "other")
    moved = {name: value * (1 + 1e-5) for name, value in load_file(tmp_path / "other" / "model.safetensors").items()}
    save_file(moved, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})

    def other(in_bfloat16: bool) -> SFTModule:
        with loading(deferred=True, frozen_in_bfloat16=in_bfloat16):
            return SFTModule(str(tmp_path / "other"), lora=LoRASettings(rank=2))

    with pytest.raises(UserError, match="that are not trained are not those that the checkpoint was trained with"):
        export_checkpoint(other, False, tmp_path / "one.ckpt", tmp_path / "export")
    assert not (tmp_path / "export").exists()
