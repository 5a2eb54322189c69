"""The export holds the best weights by validation, whenever they were reached."""

import json
from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from callbacks.checkpoints.weights_export import WeightsExport
from runtime.errors import UserError
from runtime.whole_folder import partial_of, whole_folder


class RecordedStudent(torch.nn.Module):
    """Saves the step at which it is exported."""

    sharded = False

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def save_pretrained(self, directory: Path, notes: dict[str, str]) -> None:
        with whole_folder(directory, 4) as fresh:
            for name, text in {"model.safetensors": f"{self.weight.item():.3f}", "config.json": "", **notes}.items():
                (fresh / name).write_text(text)


class Scripted(lightning.LightningModule):
    """Moves its weight by one a step and reports the given accuracies, one each validation."""

    def __init__(self, accuracies: list[float]) -> None:
        super().__init__()
        self.student = RecordedStudent()
        self.accuracies = list(accuracies)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return -self.student.weight.sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        pass

    def on_validation_epoch_end(self) -> None:
        if self.accuracies:
            self.log("val/accuracy", self.accuracies.pop(0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(accuracies: list[float], root: Path, validate: bool = True) -> WeightsExport:
    export = WeightsExport()
    data = DataLoader(torch.zeros(len(accuracies) or 2, 1))
    lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        val_check_interval=1,
        num_sanity_val_steps=0,
        limit_val_batches=1 if validate else 0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=root,
        callbacks=[export],
    ).fit(Scripted(accuracies), data, data)
    return export


def test_the_best_validation_is_exported_not_the_last(tmp_path: Path) -> None:
    fit([0.2, 0.8, 0.5, 0.8], tmp_path)
    assert (tmp_path / "best" / "model.safetensors").read_text() == "2.000"
    notes = json.loads((tmp_path / "best" / "training.json").read_text())
    assert notes["step"] == 2
    assert abs(notes["val/accuracy"] - 0.8) < 1e-6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best"]


def test_the_console_gets_four_digits_and_the_file_all(tmp_path: Path, monkeypatch) -> None:
    """0.8 in float32 is 0.800000011920929."""
    said: list[str] = []
    monkeypatch.setattr("callbacks.checkpoints.weights_export.rank_zero_info", said.append)
    fit([0.8], tmp_path)
    fit([], tmp_path / "unmeasured", validate=False)
    assert said == [
        f"step 1: weights with val/accuracy 0.8 exported to {tmp_path}/best",
        f"step 2: weights exported to {tmp_path}/unmeasured/best",
    ]
    assert json.loads((tmp_path / "best" / "training.json").read_text())["val/accuracy"] == 0.800000011920929


def test_what_a_killed_run_left_is_cleared_at_the_next_start(tmp_path: Path) -> None:
    fit([0.2], tmp_path)
    partial_of(tmp_path / "best").mkdir()
    (partial_of(tmp_path / "best") / "model.safetensors").write_bytes(b"torn")
    (tmp_path / "best").rename(tmp_path / ".best.old")  # killed between two renames, where folders cannot be swapped
    export = WeightsExport()
    trainer = lightning.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
    export.setup(trainer, Scripted([]), "fit")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert (tmp_path / "best" / "model.safetensors").read_text() == "1.000"


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    """An earlier export is; what a user keeps there is not, and the run says so before its first step."""
    fit([0.2], tmp_path)
    fit([0.2, 0.3], tmp_path)
    assert (tmp_path / "best" / "model.safetensors").read_text() == "2.000"
    (tmp_path / "best" / "notes.md").write_text("mine")
    with pytest.raises(UserError, match=r"best is not empty and not an earlier export \(it holds notes\.md\)"):
        fit([0.4], tmp_path)
    assert (tmp_path / "best" / "model.safetensors").read_text() == "2.000"
    (tmp_path / "best" / "notes.md").unlink()
    (tmp_path / "best" / "training.json").unlink()  # a base model as it was downloaded
    with pytest.raises(UserError, match=r"training\.json is missing"):
        fit([0.4], tmp_path)


def test_without_validation_the_last_weights_are_exported_and_said_so(tmp_path: Path, recwarn) -> None:
    fit([], tmp_path, validate=False)
    assert (tmp_path / "best" / "model.safetensors").read_text() == "2.000"
    assert any("never measured" in str(warning.message) for warning in recwarn)
