"""A stranger's checkpoint of many files runs no code, and a damaged one is named."""

import pickle
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex
from torch.distributed.checkpoint.state_dict_saver import save

from lightning_modules.models.checkpoints.checkpoint_folder import WeightsError, load_processor
from lightning_modules.models.checkpoints.sharded_checkpoint import (
    METADATA,
    PLAIN_VALUES,
    CheckpointError,
    ShardedCheckpoint,
)

WEIGHTS = {
    "state_dict.w": torch.arange(6.0).view(2, 3),
    "state_dict.half": torch.ones(2, dtype=torch.bfloat16),
    "optimizer_0.state.w.step": torch.tensor(3.0),
}


class Code:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.mark,)  # type: ignore[return-value]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "last.ckpt"
    save(WEIGHTS, storage_writer=FileSystemWriter(path), no_dist=True)
    torch.save({"step": 1, "optimizer_states": [{"param_groups": [{"params": ["w"]}]}]}, path / PLAIN_VALUES)
    return path


def test_one_weight_at_a_time_and_all(folder: Path) -> None:
    checkpoint = ShardedCheckpoint(folder)
    assert {name: value.shape for name, value in checkpoint.weights().items()} == {"w": (2, 3), "half": (2,)}
    assert torch.equal(checkpoint.weight("w"), WEIGHTS["state_dict.w"])
    assert checkpoint.weight("half").dtype == torch.bfloat16
    assert checkpoint.whole()["optimizer_states"] == [{"state": {0: {"step": 3.0}}, "param_groups": [{"params": [0]}]}]
    assert checkpoint.whole(moments=False).keys() == {"state_dict", "step"}
    with pytest.raises(CheckpointError, match=r"does not fit this model: state_dict.w of shape \[3, 2\] is \[2, 3\]"):
        checkpoint.read({"state_dict.w": torch.empty(3, 2)})


def test_code_of_strangers_is_not_run(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    whole = (folder / METADATA).read_bytes()
    (folder / METADATA).write_bytes(pickle.dumps(Code(mark)))
    with pytest.raises(CheckpointError, match=r"names (pathlib.*touch|builtins\.getattr), which no checkpoint needs"):
        ShardedCheckpoint(folder)
    metadata = pickle.loads(whole)
    assert isinstance(metadata, Metadata)
    torch.save(Code(mark), folder / "code.distcp")  # what is no tensor, torch would unpickle
    metadata.state_dict_metadata["state_dict.w"] = BytesStorageMetadata()
    index = MetadataIndex("state_dict.w")
    metadata.storage_data[index] = _StorageInfo("code.distcp", 0, (folder / "code.distcp").stat().st_size)
    (folder / METADATA).write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match=r"state_dict\.w of shape"):
        ShardedCheckpoint(folder).read({"state_dict.w": torch.empty(2, 3)})
    torch.save({"step": Code(mark)}, folder / PLAIN_VALUES)
    with pytest.raises(CheckpointError, match="cannot be read"):
        ShardedCheckpoint(folder)
    assert not mark.exists()


@pytest.mark.parametrize("file", [METADATA, PLAIN_VALUES, "__0_0.distcp"])
def test_a_damaged_one_is_named(folder: Path, file: str) -> None:
    (folder / file).write_bytes((folder / file).read_bytes()[:40])
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be read \(.+\): it is torn"):
        ShardedCheckpoint(folder).whole()


def test_one_of_an_earlier_version_is_named(folder: Path) -> None:
    torch.save({"step": 1}, folder / PLAIN_VALUES)
    with pytest.raises(CheckpointError, match="written by an earlier version"):
        ShardedCheckpoint(folder)


def test_it_is_no_place_of_weights(folder: Path) -> None:
    (folder.parent / "one.ckpt").write_bytes(b"a checkpoint of one file")
    for path in (folder, folder.parent / "one.ckpt"):
        with pytest.raises(WeightsError, match=r"ckpt' is a checkpoint, .* `python train.py export`"):
            load_processor(str(path))
