"""Interrupting a run anywhere and resuming it gives the run that was never interrupted."""

import contextlib
import itertools
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.checkpointing import AtomicCheckpointIO, BestCheckpoint, CheckpointError, LastCheckpoint
from callbacks.step_seed import StepSeed
from datamodules.audio_qa import AudioQADataModule
from datamodules.sampler import ResumableLoader, TrainBatchSampler

ITEMS, BATCH, MAX_BATCHES = 14, 2, 17  # epochs of 7 batches


class Numbers(AudioQADataModule):
    """Numbers in place of questions; order and position are the real DataModule's."""

    def __init__(self) -> None:
        super().__init__(root="nowhere", seed=3)

    def prepare_data(self) -> None:
        pass

    def setup(self, stage: str | None = None) -> None:
        pass

    def train_dataloader(self):
        self._train_sampler = TrainBatchSampler(ITEMS, BATCH, self.seed, position=self._position)
        return ResumableLoader(torch.arange(ITEMS), batch_sampler=self._train_sampler)

    def val_dataloader(self):
        return torch.utils.data.DataLoader(torch.arange(3))


class Recorder(LightningModule):
    """Appends what happens to `events`; `steps_of_batch` optimizer steps for each batch, with dropout."""

    def __init__(self, steps_of_batch: int = 1) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        torch.nn.init.ones_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)
        self.dropout = torch.nn.Dropout(0.5)
        self.steps_of_batch = steps_of_batch
        self.automatic_optimization = steps_of_batch == 1
        self.events: list[tuple] = []

    def loss(self, batch: Tensor) -> Tensor:
        return self.layer(self.dropout(batch.float()[:, None] / ITEMS)).square().mean()

    def training_step(self, batch: Tensor, batch_idx: int):
        loss = self.loss(batch)
        self.events.append(("train", batch.tolist(), loss.item()))
        if self.automatic_optimization:
            return loss
        for _ in range(self.steps_of_batch):
            self.optimizers().zero_grad()
            self.manual_backward(self.loss(batch))
            self.optimizers().step()
        return None

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.events.append(("val", batch.tolist(), self.layer.weight.item()))

    def on_validation_epoch_end(self) -> None:
        self.log("val/accuracy", -(self.layer.weight - 0.97).abs().squeeze())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Killed(BaseException):
    pass


class KillAt(Callback):
    def __init__(self, count: int) -> None:
        self.count = count

    def _tick(self) -> None:
        self.count -= 1
        if self.count < 0:
            raise Killed

    def on_train_batch_start(self, *args) -> None:
        self._tick()

    def on_train_batch_end(self, *args) -> None:
        self._tick()

    def on_validation_batch_end(self, *args) -> None:
        self._tick()


def run(
    root: Path,
    module: Recorder,
    *callbacks: Callback,
    every: int = 3,
    resume: bool = False,
    batches: int = MAX_BATCHES,
    **options,
) -> Trainer:
    trainer = Trainer(
        default_root_dir=root,
        accelerator="cpu",
        max_steps=batches * module.steps_of_batch,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[StepSeed(5), *callbacks, BestCheckpoint(), LastCheckpoint(every_n_batches=every)],
        plugins=[AtomicCheckpointIO()],
        **options,
    )
    trainer.fit(module, Numbers(), ckpt_path="last" if resume else None)
    return trainer


@pytest.mark.parametrize("steps_of_batch", [1, 2], ids=["automatic", "manual"])
@pytest.mark.parametrize(
    "validation",
    [
        {"val_check_interval": 2, "check_val_every_n_epoch": None},
        {"val_check_interval": 5, "check_val_every_n_epoch": None},
        {},
    ],
    ids=["val_often", "val_across_epochs", "val_each_epoch"],
)
def test_killed_anywhere_and_resumed(tmp_path: Path, steps_of_batch: int, validation: dict) -> None:
    whole = Recorder(steps_of_batch)
    reference = run(tmp_path / "whole", whole, **validation)
    expected = whole.events
    assert len([e for e in expected if e[0] == "train"]) == MAX_BATCHES
    best = reference.checkpoint_callbacks[0]
    for kill_at in range(1, 2 * MAX_BATCHES + 9, 3):
        root = tmp_path / str(kill_at)
        first, second = Recorder(steps_of_batch), Recorder(steps_of_batch)
        with contextlib.suppress(Killed):
            run(root, first, KillAt(kill_at), **validation)
        trainer = run(root, second, resume=True, **validation)
        # what the resumed run did is exactly the end of what the uninterrupted run did
        assert second.events == expected[len(expected) - len(second.events) :], kill_at
        # and no more than `every` batches, validations included, were lost
        assert len(first.events) + len(second.events) >= len(expected)
        assert torch.equal(second.layer.weight, whole.layer.weight)
        resumed_best = trainer.checkpoint_callbacks[0]
        assert Path(resumed_best.best_model_path).name == Path(best.best_model_path).name
        assert resumed_best.best_model_score == best.best_model_score
        assert trainer.global_step == reference.global_step


@pytest.mark.parametrize("steps_of_batch", [1, 2], ids=["automatic", "manual"])
@pytest.mark.parametrize("batches", [4, 5, 7, 8, 14])
def test_a_finished_run_can_be_made_longer(tmp_path: Path, steps_of_batch: int, batches: int) -> None:
    validation = {"val_check_interval": 5, "check_val_every_n_epoch": None}
    whole, first, second = (Recorder(steps_of_batch) for _ in range(3))
    run(tmp_path / "whole", whole, **validation)
    run(tmp_path / "parts", first, batches=batches, every=100, **validation)
    run(tmp_path / "parts", second, resume=True, **validation)
    assert first.events + second.events == whole.events


def test_last_is_written_without_any_validation_and_at_the_end(tmp_path: Path) -> None:
    seen = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            last = tmp_path / "checkpoints" / "last.ckpt"
            seen.append(torch.load(last, weights_only=True)["global_step"] if last.exists() else None)

    run(tmp_path, Recorder(), Look(), every=4, limit_val_batches=0)
    assert seen == [None] * 4 + [4] * 4 + [8] * 4 + [12] * 4 + [16]
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == MAX_BATCHES
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["last.ckpt"]


def test_best_holds_the_best_validation(tmp_path: Path) -> None:
    module = Recorder()
    trainer = run(tmp_path, module, val_check_interval=2, check_val_every_n_epoch=None)
    weights = [e[2] for e in module.events if e[0] == "val"]
    best = min(weights, key=lambda w: abs(w - 0.97))
    kept = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)["state_dict"]["layer.weight"]
    assert float(kept) == best != weights[-1]


def test_fresh_start_replaces_last_of_an_earlier_run(tmp_path: Path) -> None:
    run(tmp_path, Recorder(), limit_val_batches=0)
    run(tmp_path, Recorder(2), limit_val_batches=0)
    names = sorted(os.listdir(tmp_path / "checkpoints"))
    assert names == ["last.ckpt"]
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2 * MAX_BATCHES


def write_forever(target: Path) -> None:
    io = AtomicCheckpointIO()
    for n in itertools.count(1):
        io.save_checkpoint({"n": n, "x": torch.full((1_000_000,), float(n))}, target)


def test_killed_while_writing_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    target, partial = tmp_path / "last.ckpt", tmp_path / "last.ckpt.partial"
    writer = multiprocessing.get_context("spawn").Process(target=write_forever, args=(target,), daemon=True)
    writer.start()
    deadline = time.monotonic() + 60
    while not (target.exists() and partial.exists()):  # until it is writing over an existing one
        assert time.monotonic() < deadline
    writer.kill()
    writer.join()
    found = AtomicCheckpointIO().load_checkpoint(target)
    assert torch.equal(found["x"], torch.full((1_000_000,), float(found["n"])))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"not a checkpoint"], ids=["empty", "torn", "text"])
def test_unreadable_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be read"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")


def test_arbitrary_objects_are_refused(tmp_path: Path) -> None:
    torch.save({"x": Path("/")}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "x.ckpt")
