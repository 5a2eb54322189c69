"""A student that waits for its weights until it is sharded is the same student, and each rank reads its rows alone."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from lightning_modules.grpo import GRPOModule
from lightning_modules.models.adapters import LoRASettings
from lightning_modules.models.checkpoints.checkpoint_folder import WeightsError
from lightning_modules.models.checkpoints.loading import loading
from lightning_modules.models.frozen_weights import fingerprint
from lightning_modules.models.sharding import copies_of
from lightning_modules.models.student import Student
from runtime.errors import UserError
from tests.integration.ranks import sharded_memory_rank
from tests.support.ranks import run_ranks
from tests.support.students import ARCHITECTURES

BOTH = pytest.mark.parametrize("weights", ARCHITECTURES, indirect=True, scope="session")


@pytest.fixture
def mesh() -> Iterator[Callable[[int, int], DeviceMesh]]:
    """Makes this process one of several ranks; nothing is ever sent."""

    def make(rank: int, ranks: int) -> DeviceMesh:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
        return init_device_mesh("cpu", (ranks,))

    yield make
    distributed.destroy_process_group()


def deferred(weights: str, *arguments: object, **settings: object) -> Student:
    with loading(deferred=True):
        return Student(weights, *arguments, **settings)


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, LoRASettings()], ids=["full", "lora"])
def test_it_is_the_same_student(weights: str, mesh, dtype: str, lora: LoRASettings | None) -> None:
    expected = Student(weights, lora, dtype=dtype)
    student = deferred(weights, lora, dtype=dtype)
    assert all(p.is_meta or "lora_" in name for name, p in student.named_parameters())
    student.shard(mesh(0, 1))
    assert not any(p.is_meta for p in student.parameters())
    for kind in ("named_parameters", "named_buffers"):
        found, wanted = dict(getattr(student, kind)()), dict(getattr(expected, kind)())
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            mine = found[name].to_local() if kind == "named_parameters" else found[name]
            assert (mine.dtype, mine.requires_grad) == (value.dtype, value.requires_grad), name
            assert "lora_A" in name or torch.equal(mine, value), name  # those are drawn anew
            assert "lora_A" not in name or mine.std() > 0
    assert student.base.generation_config.to_dict() == expected.base.generation_config.to_dict()
    assert student.base.config.to_dict() == expected.base.config.to_dict()


@pytest.mark.parametrize("rank", [0, 2, 6])
def test_a_rank_holds_its_rows(weights: str, mesh, rank: int) -> None:
    """Of seven ranks; 64 rows are six times ten and four, 3 rows are for the first three ranks alone."""
    student = deferred(weights)
    student.shard(mesh(rank, 7))
    whole = dict(Student(weights).named_parameters())
    for name, value in student.named_parameters():
        parts = list(whole[name].chunk(7))
        expected = parts[rank] if rank < len(parts) else whole[name][:0]
        assert torch.equal(value.to_local(), expected), name


def test_a_rank_holds_its_rows_of_its_copy(weights: str, mesh) -> None:
    """Six ranks, two copies: the fifth is the second of the three that share the second copy."""
    student = deferred(weights)
    student.shard(copies_of(mesh(4, 6), 2))
    whole = dict(Student(weights).named_parameters())
    for name, value in student.named_parameters():
        parts = list(whole[name].chunk(3))
        assert torch.equal(value.to_local(), parts[1] if len(parts) > 1 else whole[name][:0]), name
    with pytest.raises(UserError, match="replicas is 4: it must divide the number of ranks, 6"):
        copies_of(mesh(4, 6), 4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fingerprint_is_the_same_however_weights_are_spread(weights: str, mesh, monkeypatch, dtype: str) -> None:
    """Seven ranks, of which the last ones have no row of some tensors, together see what one rank sees."""
    expected = fingerprint(Student(weights, LoRASettings(), dtype=dtype))
    assert expected != fingerprint(Student(weights, LoRASettings(), dtype="float16"))
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(distributed, "all_reduce", lambda values, operation, group: seen.append(values.clone()))
    for rank in range(7):
        student = deferred(weights, LoRASettings(), dtype=dtype)
        student.shard(mesh(rank, 7))
        assert fingerprint(student) != expected
    everything = torch.stack(seen)
    assert (everything.isfinite().sum(0) == 1).all()  # each value is one rank's
    monkeypatch.setattr(distributed, "all_reduce", lambda values, operation, group: values.copy_(everything.amax(0)))
    assert fingerprint(student) == expected


def test_tied_embeddings_stay_one(tmp_path: Path, mesh) -> None:
    place = ARCHITECTURES["qwen2_5_omni"](tmp_path / "tied")
    tensors = load_file(place / "model.safetensors")
    tensors.pop("thinker.lm_head.weight")
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((place / "config.json").read_text())
    for part in (config["thinker_config"], config["thinker_config"]["text_config"]):
        part["tie_word_embeddings"] = True
    (place / "config.json").write_text(json.dumps(config))
    student = deferred(str(place))
    student.shard(mesh(0, 1))
    embedding = student.base.get_input_embeddings().weight
    assert student.base.lm_head.weight is embedding
    assert torch.equal(embedding.to_local(), tensors["thinker.model.embed_tokens.weight"])


def test_what_does_not_fit_is_refused_before_anything_is_read(weights: str, tmp_path: Path) -> None:
    def changed(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> str:
        place = Path(shutil.copytree(weights, tmp_path / name))
        tensors = load_file(place / "model.safetensors")
        change(tensors)
        save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
        return str(place)

    bias = "audio_tower.conv1.bias"
    with pytest.raises(WeightsError, match=r"1 missing keys \(model.audio_tower.conv1.bias\)"):
        deferred(changed("missing", lambda tensors: tensors.pop(bias)))
    with pytest.raises(WeightsError, match=r"1 mismatched keys \(model.audio_tower.conv1.bias\)"):
        deferred(changed("shape", lambda tensors: tensors.update({bias: torch.zeros(3)})))
    with pytest.raises(WeightsError, match=r"1 unexpected keys \(surplus\)"):
        deferred(changed("surplus", lambda tensors: tensors.update(surplus=torch.zeros(1))))
    damaged = Path(changed("damaged", lambda tensors: None))
    (damaged / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(WeightsError, match=r"model\.safetensors is cut off"):
        deferred(str(damaged))


def test_weights_in_a_bin_file_are_not_deferred(weights: str, tmp_path: Path) -> None:
    place = Path(shutil.copytree(weights, tmp_path / "student"))
    torch.save(load_file(place / "model.safetensors"), place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()
    assert not any(p.is_meta for p in deferred(str(place)).parameters())


@pytest.mark.integration
def test_a_rank_never_holds_the_whole_model(tmp_path: Path) -> None:
    """Policy and reference, each of some 100 MB, over two ranks: a rank needs a half of each."""
    size = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8}
    weights = ARCHITECTURES["qwen2_audio"](tmp_path / "student", **size)
    file = weights / "model.safetensors"  # in bfloat16, as the released weights are; in memory they are float32
    tensors = {name: value.bfloat16() for name, value in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    most, whole, frozen = starts(str(weights), tmp_path, "deferred")
    assert whole > 100e6
    assert most < 1.5 * whole  # 1.0 for the two halves and what else is made; loaded first and sharded then: above 2
    assert frozen == {fingerprint(GRPOModule(str(weights)))}


def starts(weights: str, folder: Path, how: str) -> tuple[int, int, set[str]]:
    """Begin on two ranks; returns the most that one held, the model's size and the fingerprints of what is frozen."""
    run_ranks(sharded_memory_rank.main, weights, how, str(folder / "held"), folder=folder / "logs")
    said = [(folder / f"held.{rank}").read_text().split() for rank in range(2)]
    most, whole, frozen = zip(*said, strict=True)
    return max(map(int, most)), int(whole[0]), set(frozen)


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_0_alone_is_given_whole_weights(weights: str, mesh, rank: int) -> None:
    student = Student(weights)
    shapes = student.hub_shapes()
    student.shard(mesh(rank, 2))
    given = {name: value.shape for name, value in student.hub_tensors()}
    assert given == ({name: torch.Size(part.shape) for name, part in shapes.items()} if rank == 0 else {})
