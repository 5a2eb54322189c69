"""What ``train.py plan`` predicts of a rank's memory beside what steps of the same modules take on this device."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from benchmarks.gpu.device import Device, attempt
from benchmarks.gpu.work import Record, Work
from benchmarks.measuring.trainer_fit import fit
from lightning_modules.grpo import GRPOModule
from lightning_modules.models.adapters import LoRASettings
from lightning_modules.models.checkpoints.loading import loading
from lightning_modules.sft import SFTModule
from planning.fake_batch import fake_batch
from planning.machine import Machine
from planning.stage import Lengths, Stage, rehearse_stage

STEPS = 3
"""Of which the first makes the optimizer's state and is left out."""


def measure(work: Work, record: Record) -> None:
    """Predict and take steps of GRPO and SFT with adapters, without and with gradient checkpointing."""
    device = Device(work.device)
    questions = min(4, work.largest)
    with tempfile.TemporaryDirectory() as folder:
        shape = dataclasses.replace(work.shape, key_heads=work.shape.heads)  # torch 2.11 counts no shared ones
        shape.config(work.audio_token).save_pretrained(folder)
        for kind, micro, checkpointing in (
            ("grpo", max(1, questions // 2), False),
            ("grpo", max(1, questions // 2), True),
            ("sft", None, False),
            ("sft", None, True),
        ):
            stage = stage_of(work, folder, kind, questions, micro, checkpointing)
            row = {"stage": kind, "questions": questions, "micro_batch_size": micro, "checkpointing": checkpointing}

            def both(stage: Stage = stage) -> dict[str, Any]:
                predicted = rehearse_stage(stage, machine_of(work), Path(folder)).peak
                found: dict[str, Any] = {"predicted_gb": round(predicted.bytes / 1e9, 3)}
                found["kinds_gb"] = {kind: round(size / 1e9, 3) for kind, size in predicted.kinds.items()}
                return found | {"phase": predicted.phase}

            found = attempt(both)
            taken = attempt(lambda stage=stage: peak_of(work, device, stage, folder))  # type: ignore[misc]
            device.free()
            record.append("peaks", {**row, **found, **taken})


def machine_of(work: Work) -> Machine:
    """Return the machine that is planned for: one device like this one."""
    name = "H100" if work.device == "cuda" else "cpu"
    return Machine(name, 80, 1, 1, 0, 0.0, 989, 3350, 450, 50, 128)


def stage_of(work: Work, folder: str, kind: str, questions: int, micro: int | None, checkpointing: bool) -> Stage:
    """Return a stage with adapters on one device, as its configuration would have it."""
    options: dict[str, Any] = {"weights": folder, "lora": {"rank": 8, "alpha": 16}}
    options |= {"gradient_checkpointing": checkpointing, "micro_batch_size": micro}
    group = work.group
    if kind == "grpo":
        options |= {"num_completions": group}
    else:
        questions, group = questions * 2, 1
    model = {"class_path": f"lightning_modules.{kind.upper()}Module", "init_args": options}
    precision = "bf16-mixed" if work.dtype == "bfloat16" else "32-true"
    lengths = Lengths(work.seconds, work.text_tokens, work.tokens)
    return Stage(model, {"devices": 1, "precision": precision}, questions, group, lengths)


def peak_of(work: Work, device: Device, stage: Stage, folder: str) -> dict[str, Any]:
    """Return the highest mark of the steps after the first."""
    options = {k: v for k, v in stage.options.items() if k not in ("weights", "lora")}
    kind = GRPOModule if stage.is_grpo else SFTModule
    low = work.dtype == "bfloat16"
    with loading(shapes_of=lambda _: Path(folder), frozen_in_bfloat16=low), torch.device(work.device):
        module = kind(folder, lora=LoRASettings(rank=8, alpha=16), **options)
    fill(module)
    sizes = dataclasses.asdict(stage.lengths)
    batch = fake_batch(
        module.student.architecture.front_end, stage.questions, stage.completions, work.audio_token, 128, **sizes
    )
    marks = Marks(device)
    fit(module, [batch] * STEPS, marks, device=work.device, dtype=work.torch_dtype)
    return {"measured_gb": marks.peak["peak_gb"], "reserved_gb": marks.peak.get("reserved_gb")}


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Give weights small values: what memory happens to hold may be no number."""
    for weight in module.parameters():
        weight.normal_(0, 0.01)


class Marks(Callback):
    """Keeps the highest mark of memory of all steps but the first."""

    def __init__(self, device: Device) -> None:
        """Watch steps on a device."""
        self.device = device
        self.peak: dict[str, float] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Forget the first step."""
        if batch_idx == 1:
            self.device.begin_peak()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the mark."""
        self.peak = self.device.peak()
