"""Loader workers hand over tensors without /dev/shm, which containers have 64 MB of."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.avqa import AVQADataModule
from datamodules.batching.worker_tensors import prepare_worker
from tests.support.dataset_files import avqa_row

TENSORS = [
    torch.arange(40_000, dtype=torch.float32).view(100, 400),
    torch.arange(40_000).view(100, 400).T,  # 320 kB, not contiguous
    torch.tensor(3),
    torch.zeros(0, 5),
    torch.tensor([[True, False]]),
    torch.randn(50_000).bfloat16(),
]


class Batches(Dataset[Tensor]):
    def __len__(self) -> int:
        return len(TENSORS)

    def __getitem__(self, index: int) -> Tensor:
        return TENSORS[index]


def test_tensors_of_all_kinds_arrive() -> None:
    loader = DataLoader(Batches(), batch_size=None, num_workers=2, worker_init_fn=prepare_worker)
    for there, here in zip(loader, TENSORS, strict=True):
        assert (there.dtype, there.shape) == (here.dtype, here.shape)
        assert torch.equal(there, here)
        assert not there.is_shared()  # what lies in /dev/shm is
        there.zero_()  # its memory is nobody else's, and can be written
    (again, *_) = DataLoader(Batches(), batch_size=None, num_workers=1)
    assert again.is_shared()


def test_batches_do_not_need_dev_shm(write_avqa: Callable[..., Path], processor_dir: str) -> None:
    rows = [avqa_row(n) for n in range(6)]
    settings: dict[str, Any] = {"processor": processor_dir, "batch_size": 3, "validate_media": False}
    root = write_avqa(rows, rows)
    (here, there) = (
        [*data.train_dataloader(), *data.val_dataloader()]
        for data in (AVQADataModule(str(root), num_workers=count, **settings) for count in (0, 2))
    )
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.features, other.features) and torch.equal(one.prompt_ids, other.prompt_ids)
        assert not other.features.is_shared() and not other.prompt_ids.is_shared()


def test_where_no_worker_can_be_started(
    write_avqa: Callable[..., Path], processor_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    lock = multiprocessing.Lock

    def nearly_full() -> object:
        if len(made) == 12:  # some fit, but not those of a loader
            raise OSError(28, "No space left on device")
        made.append(object())
        return lock()

    monkeypatch.setattr(multiprocessing, "Lock", nearly_full)
    root = write_avqa([avqa_row(0)], [avqa_row(0)])
    settings: dict[str, Any] = {"processor": processor_dir, "validate_media": False}
    data = AVQADataModule(str(root), num_workers=2, **settings)
    with pytest.warns(UserWarning, match=r"data\.num_workers is 2, .* \(No space left on device\).*--shm-size"):
        loader = data.val_dataloader()
    assert loader.num_workers == 0 and len(list(loader)) == 1
