"""Weights under the Hub's names are computed and written one at a time, whatever their number."""

import contextlib
import errno
import os
import weakref
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_modules.models.adapters import LoRASettings
from lightning_modules.models.architectures.qwen2_audio import Qwen2Audio
from lightning_modules.models.checkpoints.checkpoint_folder import WeightsError
from lightning_modules.models.checkpoints.deferred_weights import find_tensors, model_without_weights
from lightning_modules.models.checkpoints.hub_weights import HubTensors, hub_shapes
from lightning_modules.models.student import Student
from records.hub_files import HubTensor, write_hub_files
from runtime.errors import UserError
from runtime.whole_folder import partial_of
from tests.lightning_modules.models.test_student import perturbed


class LiveStorage(TorchDispatchMode):
    """Counts the bytes of storage that was made within it and is still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in known:
                storage = leaf.untyped_storage()
                key = storage._cdata
                self.live[key] = storage.nbytes()
                weakref.finalize(storage, self.live.pop, key, None)
        self.peak = max(self.peak, sum(self.live.values()))
        return out


def test_one_merged_matrix_is_alive_at_a_time(weights: str, tmp_path: Path) -> None:
    student = perturbed(Student(weights, LoRASettings()))
    shapes = student.hub_shapes()
    adapted = [
        part.nbytes for name, part in shapes.items() if name.endswith("_proj.weight") and "audio_tower" not in name
    ]
    with LiveStorage() as counted:
        write_hub_files(student.hub_tensors(), shapes, tmp_path)
    assert counted.peak >= max(adapted)  # it counts at all
    # B A, and B A times the scale; the sum with the base takes the place of the latter
    assert counted.peak <= 2 * max(adapted) < sum(adapted) / 2
    plain = Student(weights)
    with LiveStorage() as unchanged:
        for _ in plain.hub_tensors():
            pass
    assert unchanged.peak == 0  # what needs no computing is not copied


@pytest.mark.parametrize("lora", [None, LoRASettings()], ids=["full", "lora"])
def test_shapes_are_known_beforehand(weights: str, lora: LoRASettings | None) -> None:
    student = perturbed(Student(weights, lora))
    assert {name: HubTensor(tuple(value.shape), value.dtype) for name, value in student.hub_tensors()} == (
        student.hub_shapes()
    )
    first = next(iter(student.hub_shapes()))
    halved = student.hub_shapes(torch.bfloat16)
    assert sum(part.nbytes for part in halved.values()) * 2 == sum(p.nbytes for p in student.hub_shapes().values())
    assert {name: value.dtype for name, value in student.hub_tensors(torch.bfloat16)} == dict.fromkeys(
        halved, torch.bfloat16
    )
    single = {name: value.dtype for name, value in student.hub_tensors({first: torch.float16})}
    assert single.pop(first) == torch.float16 and set(single.values()) == {torch.float32}


def test_a_low_precision_matrix_is_rounded_once(weights: str) -> None:
    student = perturbed(Student(weights, LoRASettings(), dtype="bfloat16"))
    layer = student.base.model.language_model.layers[0].mlp.up_proj
    delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * layer.scaling["default"]
    expected = (layer.base_layer.weight.float() + delta).to(torch.bfloat16)
    found = dict(student.hub_tensors(torch.bfloat16))["language_model.model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(found, expected)


def test_files_hold_what_came_and_are_of_bounded_size(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "odd": torch.randn(3, generator=generator).bfloat16(),  # 6 bytes: what follows would not be aligned
        "whole": torch.randn(4, 5, generator=generator),
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 4),
        "large": torch.randn(50, generator=generator),
        "last": torch.tensor([True, False, True]),
        "view": torch.randn(6, 4, generator=generator).T[1:],
    }
    shapes = {name: HubTensor(tuple(value.shape), value.dtype) for name, value in tensors.items()}
    write_hub_files(iter(tensors.items()), shapes, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in tensors.items())
    several = tmp_path / "several"
    several.mkdir()
    write_hub_files(iter(tensors.items()), shapes, several, shard_bytes=100)
    files = sorted(several.glob("*.safetensors"))
    assert [file.name for file in files] == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    held = []
    for file in files:
        with safe_open(file, "pt") as content:
            held.append(set(content.keys()))
    assert held == [{"odd", "whole", "scalar", "empty"}, {"large"}, {"last", "view"}]  # 94, 200 and 75 bytes


def test_what_does_not_come_as_announced_is_refused(tmp_path: Path) -> None:
    shapes = {"a": HubTensor((2,), torch.float32), "b": HubTensor((1,), torch.float32)}
    values = {"a": torch.zeros(2), "b": torch.zeros(1)}
    for wrong in ({"a": values["a"]}, {"b": values["b"], "a": values["a"]}, {**values, "c": values["a"]}):
        with pytest.raises(ValueError, match="came"):
            write_hub_files(iter(wrong.items()), shapes, tmp_path)


def test_several_files_are_one_checkpoint(weights: str, tmp_path: Path, monkeypatch) -> None:
    student = perturbed(Student(weights, LoRASettings()))
    monkeypatch.setattr("records.hub_files.write_hub_files.__defaults__", (200_000,))
    student.save_pretrained(tmp_path / "best", {"training.json": "{}\n"})
    assert len(list((tmp_path / "best").glob("model-*-of-*.safetensors"))) > 2
    assert (tmp_path / "best" / "training.json").read_text() == "{}\n"
    expected = dict(student.hub_tensors())
    found = dict(Student(str(tmp_path / "best")).hub_tensors())
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_without_room_a_sentence_and_what_was_there(weights: str, tmp_path: Path, monkeypatch, number: int) -> None:
    student = Student(weights)
    student.save_pretrained(tmp_path / "best")
    before = load_file(tmp_path / "best" / "model.safetensors")
    next(student.parameters()).data += 1

    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("records.hub_files.os.fsync", full)
    size = sum(part.nbytes for part in student.hub_shapes().values())
    sentence = rf"no room for .*best: {size:,} bytes" if number != errno.EIO else r"best cannot be written \(Input"
    with pytest.raises(UserError, match=sentence):
        student.save_pretrained(tmp_path / "best")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    after = load_file(tmp_path / "best" / "model.safetensors")
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_what_a_killed_export_left_is_replaced(weights: str, tmp_path: Path) -> None:
    partial_of(tmp_path / "best").mkdir()
    (partial_of(tmp_path / "best") / "model-00001-of-00009.safetensors").write_bytes(b"torn")
    Student(weights).save_pretrained(tmp_path / "best")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert not (tmp_path / "best" / "model-00001-of-00009.safetensors").exists()
    with contextlib.suppress(UserError):
        Student(weights).save_pretrained(tmp_path / "best" / "config.json" / "below a file")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


class InHalves(Qwen2Audio):
    """An architecture whose gates are two tensors on the Hub."""

    def hub_weights(self, name, value):
        (whole,) = super().hub_weights(name, value)
        if not name.endswith("gate_proj.weight"):
            return {whole: value}
        upper, lower = value.chunk(2)
        return {f"{whole}.0": upper, f"{whole}.1": lower}


def test_a_weight_may_be_several_tensors_on_the_hub(weights: str, tmp_path: Path) -> None:
    student = perturbed(Student(weights, LoRASettings()))
    whole = dict(student.hub_tensors())
    shapes = hub_shapes(student.base, InHalves())
    write_hub_files(HubTensors(student.base, InHalves()), shapes, tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    assert {name: HubTensor(tuple(v.shape), v.dtype) for name, v in written.items()} == shapes
    gates = [name for name in whole if name.endswith("gate_proj.weight")]
    assert gates and len(written) == len(whole) + len(gates)
    for name in gates:
        assert torch.equal(torch.cat([written[f"{name}.0"], written[f"{name}.1"]]), whole[name])
    for name, value in HubTensors(student.base, InHalves(), {f"{gates[0]}.0": torch.bfloat16}):
        wanted = torch.bfloat16 if name == f"{gates[0]}.0" else torch.float32
        assert value.dtype == wanted, name
        assert value.untyped_storage().nbytes() == value.nbytes or not name.startswith(tuple(gates)), name


def test_several_tensors_are_not_read_row_by_row(weights: str) -> None:
    with pytest.raises(WeightsError, match=r"gate_proj.weight is 2 tensors of .*each rank holds the whole model"):
        model_without_weights(InHalves(), weights, find_tensors(weights), torch.float32, "sdpa")
