"""Without a terminal there is a line of progress now and then."""

from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks.progress import ProgressLines


def test_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Model(BoringModel):
        def training_step(self, batch, batch_idx):
            self.log("reward", 0.25, prog_bar=True, logger=False)
            return super().training_step(batch, batch_idx)

    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_steps=3,
        limit_val_batches=2,
        val_check_interval=2,
        num_sanity_val_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[ProgressLines(every_seconds=0)],
    )
    trainer.fit(Model())
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "sanity check batch 1/1",
        "waiting for the first batch",
        "step 1/3, epoch 0 batch 1/64 | reward 0.25",
        "step 2/3, epoch 0 batch 2/64 | reward 0.25",
        "validation batch 1/2 | reward 0.25",
        "validation batch 2/2 | reward 0.25",
        "step 3/3, epoch 0 batch 3/64 | reward 0.25",
    ]


def test_at_most_one_line_in_a_while(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        limit_test_batches=30,
        logger=False,
        callbacks=[ProgressLines(600)],
    )
    trainer.test(BoringModel(), verbose=False)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("test ")] == [
        "test batch 1/30",
        "test batch 30/30",
    ]
