"""A resumed run goes through the same questions as one that was never interrupted."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules.avqa import AVQADataModule
from runtime.errors import UserError
from tests.integration.ranks import data_rank
from tests.support.dataset_files import avqa_row
from tests.support.ranks import run_ranks
from tests.support.recorder import Recorder

ROWS = [avqa_row(number % 16, id=number) for number in range(20)]


def trainer(directory: Path, *callbacks: ModelCheckpoint, **settings: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=directory,
        enable_checkpointing=bool(callbacks),
        callbacks=list(callbacks),
        **settings,
    )


@pytest.fixture
def data(write_avqa: Callable[..., Path], processor_dir: str) -> Callable[..., AVQADataModule]:
    root = write_avqa(ROWS, [avqa_row(number) for number in range(7)])

    def make(**settings: Any) -> AVQADataModule:
        defaults: dict[str, Any] = {"batch_size": 3, "num_workers": 0, "seed": 5, "processor": processor_dir}
        return AVQADataModule(str(root), **{**defaults, **settings})

    return make


@pytest.mark.parametrize(
    ("stop", "checkpoint", "settings"),
    [
        (2, {"every_n_train_steps": 2}, {}),  # in the middle of the first epoch
        (6, {"every_n_train_steps": 6}, {}),  # at the very end of the first epoch: 6 batches of 3 out of 20
        (8, {"every_n_train_steps": 8}, {}),  # in the middle of the second
        (6, {"every_n_epochs": 1, "save_on_train_epoch_end": True}, {}),
        (6, {"every_n_epochs": 1, "save_on_train_epoch_end": False}, {}),
        (4, {"every_n_epochs": 1, "monitor": "val/accuracy"}, {"val_check_interval": 2}),
        (8, {"every_n_train_steps": 8}, {"limit_train_batches": 5}),
        (5, {"every_n_train_steps": 5}, {"limit_train_batches": 5}),
        (8, {"every_n_train_steps": 8}, {"automatic": False}),
        (6, {"every_n_train_steps": 6}, {"automatic": False}),
        (8, {"every_n_train_steps": 8}, {"num_workers": 2}),
        (6, {"every_n_train_steps": 6}, {"num_workers": 2}),
        (8, {"every_n_train_steps": 8}, {"length_bucket": 4}),
    ],
)
def test_resume(
    data: Callable[..., AVQADataModule],
    tmp_path: Path,
    stop: int,
    checkpoint: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    settings = dict(settings)
    automatic = settings.pop("automatic", True)
    made = {name: settings.pop(name, default) for name, default in (("num_workers", 0), ("length_bucket", 1))}
    uninterrupted = Recorder(automatic)
    trainer(tmp_path, max_steps=15, **settings).fit(uninterrupted, datamodule=data(length_bucket=made["length_bucket"]))
    assert len(uninterrupted.seen) == 15

    keep = ModelCheckpoint(tmp_path / "kept", save_top_k=-1, filename="{step}", **checkpoint)
    first = Recorder(automatic)
    trainer(tmp_path, keep, max_steps=stop + 1, **settings).fit(first, datamodule=data(**made))
    assert first.seen == uninterrupted.seen[: stop + 1]

    second = Recorder(automatic)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*dataloader is not resumable.*")
        trainer(tmp_path, max_steps=15, **settings).fit(
            second, datamodule=data(**made), ckpt_path=tmp_path / "kept" / f"step={stop}.ckpt"
        )
    assert second.seen == uninterrupted.seen[stop:]


def test_resuming_again_and_again(data: Callable[..., AVQADataModule], tmp_path: Path) -> None:
    uninterrupted = Recorder()
    trainer(tmp_path, max_steps=14).fit(uninterrupted, datamodule=data())
    seen = []
    last = None
    for stop in (2, 6, 7, 12, 14):  # 6 and 12 are the ends of epochs
        keep = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=1, filename="{step}")
        module = Recorder()
        trainer(tmp_path, keep, max_steps=stop).fit(module, datamodule=data(), ckpt_path=last)
        last = tmp_path / "kept" / f"step={stop}.ckpt"
        seen += module.seen
    assert seen == uninterrupted.seen


def test_each_epoch_has_its_own_order(data: Callable[..., AVQADataModule], tmp_path: Path) -> None:
    module = Recorder()
    trainer(tmp_path, max_epochs=2).fit(module, datamodule=data())
    first, second = ([ids for epoch, _, ids in module.seen if epoch == which] for which in (0, 1))
    assert first != second
    for epoch in (first, second):
        ids = [question for batch in epoch for question in batch]
        assert len(ids) == len(set(ids)) == 18


def test_other_data_in_the_middle_of_an_epoch_is_refused(data: Callable[..., AVQADataModule], tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=2, filename="{step}")
    trainer(tmp_path, keep, max_steps=2).fit(Recorder(), datamodule=data())
    with pytest.raises(UserError, match=r"other data than it began with \(seed 5 -> 6, global_batch_size 3 -> 2\)"):
        trainer(tmp_path, max_steps=4).fit(
            Recorder(), datamodule=data(seed=6, batch_size=2), ckpt_path=tmp_path / "kept" / "step=2.ckpt"
        )


def test_a_step_of_fewer_batches_is_refused(data: Callable[..., AVQADataModule], tmp_path: Path) -> None:
    """After 4 of 6 batches a step over 3 would have begun with the third, which is learned from already."""
    keep = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=2, filename="{step}")
    trainer(tmp_path, keep, max_steps=2, accumulate_grad_batches=2).fit(Recorder(), datamodule=data())
    checkpoint = tmp_path / "kept" / "step=2.ckpt"
    with pytest.raises(UserError, match=r"after batch 4 .*accumulate_grad_batches 2 -> 3, .* a divisor of 4"):
        trainer(tmp_path, max_steps=4, accumulate_grad_batches=3).fit(
            Recorder(), datamodule=data(), ckpt_path=checkpoint
        )
    module = Recorder()
    trainer(tmp_path, max_steps=4, accumulate_grad_batches=1).fit(module, datamodule=data(), ckpt_path=checkpoint)
    assert len(module.seen) == 2


def test_overfitting_sees_the_same_batch_each_time(data: Callable[..., AVQADataModule], tmp_path: Path) -> None:
    module = Recorder()
    trainer(tmp_path, max_epochs=3, overfit_batches=1, limit_val_batches=0).fit(module, datamodule=data())
    assert len({ids for _, _, ids in module.seen}) == 1


def test_evaluation_goes_through_each_question_once(data: Callable[..., AVQADataModule], tmp_path: Path) -> None:
    for stage in ("validate", "test", "predict"):
        module = Recorder()
        module.log = lambda *args, **settings: None  # type: ignore[method-assign]
        getattr(trainer(tmp_path), stage)(module, datamodule=data(predict_split="val"))
        assert module.evaluated == [f"avqa/val/{number}" for number in range(7)]


def test_lightnings_own_distributed_sampler_is_refused(
    data: Callable[..., AVQADataModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = data()
    made.trainer = trainer(tmp_path)
    made.trainer._accelerator_connector.use_distributed_sampler = True
    made.val_dataloader()
    monkeypatch.setattr(type(made.trainer), "world_size", 2)
    for loader in (made.train_dataloader, made.val_dataloader, made.test_dataloader, made.predict_dataloader):
        with pytest.raises(UserError, match=r"set trainer\.use_distributed_sampler to false"):
            loader()


@pytest.mark.integration
def test_two_processes(data: Callable[..., AVQADataModule], tmp_path: Path, processor_dir: str) -> None:
    made = data()
    run_ranks(data_rank.main, str(made.root), processor_dir, str(tmp_path), folder=tmp_path / "logs")
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    one = Recorder()
    trainer(tmp_path, max_steps=5).fit(one, datamodule=data(batch_size=4))
    together = [first + second for first, second in zip(ranks[0]["seen"], ranks[1]["seen"], strict=True)]
    assert together == [list(ids) for _, _, ids in one.seen]
    assert sorted(ranks[0]["evaluated"] + ranks[1]["evaluated"]) == sorted(f"avqa/val/{n}" for n in range(7))
