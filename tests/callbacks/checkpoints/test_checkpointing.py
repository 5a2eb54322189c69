"""Interrupting a run anywhere and resuming it gives the run that was never interrupted."""

import contextlib
import itertools
import multiprocessing
import os
import re
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from callbacks.checkpoints.checkpointing import AtomicCheckpointIO, BestCheckpoint, CheckpointError, LastCheckpoint
from callbacks.step_seed import StepSeed
from datamodules.audio_qa import AudioQADataModule
from datamodules.batching.items import Item
from datamodules.batching.sampler import ResumableLoader
from tests.support.predictions import question
from tests.support.ranks import forked

ITEMS, BATCH, MAX_BATCHES = 14, 2, 17  # epochs of 7 batches


class Numbers(AudioQADataModule):
    """Numbers in place of questions; order and position are the real DataModule's."""

    def __init__(self) -> None:
        super().__init__(root="nowhere", seed=3, batch_size=BATCH)

    def prepare_data(self) -> None:
        pass

    def setup(self, stage: str | None = None) -> None:
        pass

    def train_dataloader(self):
        items = [Item(question(number)) for number in range(ITEMS)]
        return ResumableLoader(
            torch.arange(ITEMS), batch_sampler=self._training.batches(items, self.trainer, "Numbers")
        )

    def length(self, item: Item) -> float:
        return 0.0

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
@pytest.mark.integration
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


@pytest.mark.parametrize("interval", [3, 2], ids=["val_after_steps", "val_between_steps"])
@pytest.mark.filterwarnings("ignore:trainer.val_check_interval 2 is no multiple")
@pytest.mark.integration
def test_killed_while_gradients_accumulate_and_resumed(tmp_path: Path, interval: int) -> None:
    """Epochs of 7 batches make steps of 3, 3 and 1; every batch that a kill undoes is trained again in its step."""
    options = {"accumulate_grad_batches": 3, "val_check_interval": interval, "batches": 6, "every": 2}
    whole = Recorder()
    run(tmp_path / "whole", whole, **options)
    expected = whole.events
    assert len([e for e in expected if e[0] == "train"]) == 14
    for kill_at in range(3, 34, 3):
        root = tmp_path / str(kill_at)
        second = Recorder()
        with contextlib.suppress(Killed):
            run(root, Recorder(), KillAt(kill_at), **options)
        run(root, second, resume=True, **options)
        assert second.events == expected[len(expected) - len(second.events) :], kill_at
        assert torch.equal(second.layer.weight, whole.layer.weight), kill_at


@pytest.mark.parametrize("sigterm", [False, True], ids=["should_stop", "sigterm"])
def test_a_stop_waits_for_the_optimizer_step(tmp_path: Path, sigterm: bool) -> None:
    """As max_time or SIGTERM ask for it: after batch 4 of 14, in the middle of the second step."""

    class Stop(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            if trainer.fit_loop.total_batch_idx + 1 == 4:
                trainer.should_stop = not sigterm
                trainer._signal_connector.received_sigterm = sigterm

    options = {"accumulate_grad_batches": 3, "limit_val_batches": 0, "batches": 6, "every": 100}
    whole, first, second = Recorder(), Recorder(), Recorder()
    run(tmp_path / "whole", whole, **options)
    with pytest.raises(SIGTERMException) if sigterm else contextlib.nullcontext():
        run(tmp_path / "parts", first, Stop(), **options)
    assert len(first.events) == 6
    run(tmp_path / "parts", second, resume=True, **options)
    assert first.events + second.events == whole.events
    assert torch.equal(second.layer.weight, whole.layer.weight)


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


@pytest.mark.integration
def test_killed_while_writing_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    target = tmp_path / "last.ckpt"
    writer = forked(write_forever, target, log=tmp_path.with_suffix(".log"))
    deadline = time.monotonic() + 60
    while not target.exists() or not list(tmp_path.glob("*.partial")):  # until it is writing over an existing one
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


def write_beyond_limits(target: Path, limits: list[int], said: Any) -> None:
    for limit in limits:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            AtomicCheckpointIO().save_checkpoint({"x": torch.ones(100_000)}, target)
        except CheckpointError as error:
            said.put((str(error), os.listdir(target.parent)))


@pytest.mark.integration
def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"x": torch.zeros(1)}, target)
    said = multiprocessing.get_context("forkserver").Queue()
    limits = [0, 100_000, 400_000]  # nothing can be written, some of it, all but the end
    writer = forked(write_beyond_limits, target, limits, said, log=tmp_path.with_suffix(".log"))
    for _ in limits:
        sentence, left = said.get(timeout=120)
        assert re.search(
            r"last\.ckpt cannot be written \(File too large\): make room for .* --ckpt_path last", sentence
        )
        assert left == ["last.ckpt"]
    writer.join()
    assert torch.equal(AtomicCheckpointIO().load_checkpoint(target)["x"], torch.zeros(1))


def test_what_a_killed_process_left_is_removed_when_the_run_goes_on(tmp_path: Path) -> None:
    run(tmp_path, Recorder(), batches=2, limit_val_batches=0)
    for name in ("last.ckpt.1f2e3d4c.partial", "best-step=9.ckpt.partial"):
        (tmp_path / "checkpoints" / name).write_bytes(b"torn")
    (tmp_path / "checkpoints" / ".last.ckpt.partial").mkdir()  # of a run whose checkpoints are of many files
    (tmp_path / "checkpoints" / ".last.ckpt.partial" / "__0_0.distcp").write_bytes(b"torn")
    run(tmp_path, Recorder(), batches=2, limit_val_batches=0, resume=True)
    assert os.listdir(tmp_path / "checkpoints") == ["last.ckpt"]
