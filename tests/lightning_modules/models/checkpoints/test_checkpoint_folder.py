"""A checkpoint with a damaged file is refused by one sentence that names the file."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lightning_modules.models.checkpoints.checkpoint_folder import WeightsError
from lightning_modules.models.frozen_audio_encoder import FrozenAudioEncoder
from lightning_modules.models.student import Student

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 33587433472\n"


def cut(name: str, keep: float) -> Callable[[Path], None]:
    return lambda place: os.truncate(place / name, int((place / name).stat().st_size * keep))


def pointer(name: str) -> Callable[[Path], None]:
    return lambda place: (place / name).write_text(POINTER) and None


def as_bin(place: Path) -> None:
    torch.save(load_file(place / "model.safetensors"), place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()


def cut_bin(place: Path) -> None:
    as_bin(place)
    cut("pytorch_model.bin", 0.5)(place)


def without_shard(place: Path) -> None:
    names = load_file(place / "model.safetensors")
    (place / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00002.safetensors")}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))


def cut_template(place: Path) -> None:
    (place / "chat_template.jinja").write_text("{% for message in messages %}{{ message")


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "header": (lambda place: os.truncate(place / "model.safetensors", 100), r"model\.safetensors is cut off"),
    "empty": (cut("model.safetensors", 0), r"model\.safetensors is cut off"),
    "data": (cut("model.safetensors", 0.9), r"model\.safetensors has [\d,]+ bytes in place of [\d,]+"),
    "pointer": (pointer("model.safetensors"), r"model\.safetensors is a Git LFS pointer.*git lfs pull"),
    "bin": (cut_bin, r"pytorch_model\.bin is cut off"),
    "pointer tokenizer": (pointer("tokenizer.json"), r"tokenizer\.json is a Git LFS pointer"),
    "tokenizer": (cut("tokenizer.json", 0.5), r"tokenizer\.json is cut off or not JSON"),
    "config": (cut("config.json", 0.5), r"config\.json is cut off or not JSON"),
    "shard": (without_shard, r"index\.json names model-00001-of-00002\.safetensors, which is not there"),
    "template": (cut_template, r"chat template of .* is cut off or broken in line 1"),
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named(weights: str, tmp_path: Path, damage: Callable[[Path], None], sentence: str) -> None:
    place = Path(shutil.copytree(weights, tmp_path / "student"))
    damage(place)
    with pytest.raises(WeightsError, match=sentence) as refused:
        Student(str(place))
    assert "\n" not in str(refused.value)
    if "model" in sentence and "bin" not in sentence:
        with pytest.raises(WeightsError, match=sentence):
            FrozenAudioEncoder(str(place))


def test_weights_in_a_bin_file_are_read(weights: str, tmp_path: Path) -> None:
    place = Path(shutil.copytree(weights, tmp_path / "student"))
    as_bin(place)
    expected = dict(Student(weights).hub_tensors())
    found = dict(Student(str(place)).hub_tensors())
    assert all(torch.equal(found[name], value) for name, value in expected.items())
