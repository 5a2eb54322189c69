"""The curriculum inside a Trainer: rates come from rewards, and a resumed run draws the same questions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoProcessor

from callbacks.difficulty_curriculum import DifficultyCurriculum
from datamodules.avqa import AVQADataModule
from datamodules.batching.batch import AudioQABatch
from lightning_modules.doors import GradedRollouts
from runtime.errors import UserError
from tests.support.dataset_files import avqa_row, tone
from tests.support.questions import Questions
from tests.support.recorder import Recorder


class Graded(Recorder, GradedRollouts):
    """Even questions are always answered rightly, the others every other time."""

    last_totals = last_advantages = None
    reward = "accuracy"
    right = 1.0

    def training_step(self, batch: AudioQABatch, batch_idx: int) -> torch.Tensor:
        rows = [[self.right, float(int(q.id.rpartition("/")[2]) % 2 == 0)] for q in batch.questions]
        self.last_rewards = {self.reward: torch.tensor(rows)}
        return super().training_step(batch, batch_idx)


@pytest.fixture
def data(tmp_path: Path, server_weights: Path) -> Callable[..., AVQADataModule]:
    (tmp_path / "avqa" / "videos").mkdir(parents=True)
    for number in range(16, 20):
        soundfile.write(tmp_path / "avqa" / "videos" / f"clip{number}.wav", tone(0.5), 16_000)
    rows = [avqa_row(16 + number % 4, id=number) for number in range(20)]
    for split in ("train", "val"):
        (tmp_path / "avqa" / f"{split}_qa.json").write_text(json.dumps(rows))

    def make(**settings: Any) -> AVQADataModule:
        given = {
            "batch_size": 2,
            "num_workers": 0,
            "seed": 5,
            "processor": str(server_weights),
            "media_suffix": ".wav",
        } | settings
        return AVQADataModule(str(tmp_path / "avqa"), **given)

    return make


def fit(module: Any, data: Any, root: Path, steps: int, *callbacks: Any, resume: Path | None = None) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
        default_root_dir=root,
        callbacks=list(callbacks),
    )
    trainer.fit(module, datamodule=data, ckpt_path=resume)
    return trainer


def curriculum(**settings: Any) -> DifficultyCurriculum:
    return DifficultyCurriculum(**{"every_n_batches": 3, "floor": 0.01} | settings)


def test_a_resumed_run_draws_the_same(data, tmp_path: Path) -> None:
    whole, rates = Graded(), curriculum()
    trainer = fit(whole, data(), tmp_path, 25, rates)
    assert set(rates.rates.values()) == {0.5, 1.0}
    assert trainer.callback_metrics["curriculum/success_rate"] == pytest.approx(
        sum(rates.rates.values()) / len(rates.rates)
    )
    asked = [int(question.rpartition("/")[2]) % 2 for _, _, ids in whole.seen[14:] for question in ids]
    assert sum(asked) / len(asked) > 0.7
    for stop in (4, 10, 17):
        keep = ModelCheckpoint(tmp_path / "kept", save_top_k=-1, filename="{step}", every_n_train_steps=stop)
        fit(Graded(), data(), tmp_path, stop, curriculum(), keep)
        rest = Graded()
        path = tmp_path / "kept" / f"step={stop}.ckpt"
        fit(rest, data(num_workers=0), tmp_path, 25, curriculum(), resume=path)
        assert rest.seen == whole.seen[stop:]
    with pytest.raises(UserError, match=r"with other data than it began with \(curriculum \{'every_n_batches': 3"):
        fit(Graded(), data(), tmp_path, 25, resume=path)


def test_workers_change_nothing(data, tmp_path: Path) -> None:
    seen = []
    for workers in (0, 1):
        module = Graded()
        fit(module, data(num_workers=workers), tmp_path, 14, curriculum(every_n_batches=5))
        seen.append(module.seen)
    assert seen[0] == seen[1]


def test_what_does_not_fit_is_refused(data, tmp_path: Path, server_weights: Path) -> None:
    for settings, message in (
        ({"length_bucket": 4}, "each decide which questions make a batch"),
        ({"num_workers": 1}, "every_n_batches is 3, and the 1 workers .* set it to 5 or more"),
    ):
        with pytest.raises(UserError, match=message):
            fit(Graded(), data(**settings), tmp_path, 1, curriculum())
    with pytest.raises(UserError, match="does not fit Questions"):
        fit(Graded(), Questions(AutoProcessor.from_pretrained(server_weights), 4, 2), tmp_path, 1, curriculum())
    with pytest.raises(UserError, match="does not fit Recorder"):
        fit(Recorder(), data(), tmp_path, 1, curriculum())
    with pytest.raises(UserError, match=r"no reward 'grounding', .* the rewards are accuracy"):
        fit(Graded(), data(), tmp_path, 1, curriculum(reward="grounding"))
    wrong = Graded()
    wrong.right = 2.0
    with pytest.raises(UserError, match="goes beyond 0 to 1"):
        fit(wrong, data(), tmp_path, 1, curriculum())
    for settings in ({"momentum": 1.0}, {"floor": 0.0}):
        with pytest.raises(UserError, match="DifficultyCurriculum"):
            curriculum(**settings)
