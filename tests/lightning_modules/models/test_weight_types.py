"""Weights that are not trained are kept in bfloat16 where a GPU computes in it, and in float32 everywhere else."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from safetensors.torch import load_file

from cli.lightning_cli import SightSoundCLI
from lightning_modules.grpo import GRPOModule
from lightning_modules.models.checkpoints.loading import loading, present_loading
from lightning_modules.models.student import LoRASettings, Student
from lightning_modules.models.weight_types import computes_in_bfloat16
from lightning_modules.objectives.losses import sft_loss
from tests.lightning_modules.models.test_student import perturbed
from tests.support.students import make_batch


def types(student: Student) -> tuple[set[torch.dtype], set[torch.dtype]]:
    """Return the types of the frozen weights and of the trained ones."""
    trained = {p.dtype for _, p in student.trainable_parameters()}
    return {p.dtype for p in student.parameters() if not p.requires_grad}, trained


@pytest.mark.parametrize(
    ("accelerator", "precision", "gpu", "expected"),
    [
        ("auto", "bf16-mixed", True, True),
        ("gpu", "bf16-mixed", True, True),
        ("cpu", "bf16-mixed", True, False),
        ("auto", "bf16-mixed", False, False),
        ("gpu", "32-true", True, False),
        ("auto", None, True, False),  # Lightning's default is float32
        ("gpu", "16-mixed", True, False),  # float16 does not reach as far as bfloat16
    ],
)
def test_a_gpu_that_computes_in_bfloat16(monkeypatch, accelerator, precision, gpu: bool, expected: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert computes_in_bfloat16(accelerator, precision) is expected


def test_a_stage_tells_its_students_what_the_trainer_computes_in(monkeypatch, tmp_path: Path) -> None:
    """The shipped stage of SFT, up to where its classes would be made."""
    told: list[bool] = []
    monkeypatch.setattr(
        LightningCLI, "instantiate_classes", lambda _: told.append(present_loading().frozen_in_bfloat16)
    )
    monkeypatch.setattr(LightningCLI, "_run_subcommand", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for more in ([], ["--trainer.accelerator=cpu"], ["--trainer.precision=32-true"]):
        root = f"--trainer.default_root_dir={tmp_path}"
        SightSoundCLI(["fit", "--config", "configs/sft.yaml", root, "--trainer.logger=false", *more])
    assert told == [True, False, False]
    assert not present_loading().frozen_in_bfloat16  # elsewhere nobody has said so


def test_only_what_is_not_trained_is_low(weights) -> None:
    low, full = torch.bfloat16, torch.float32
    assert types(Student(weights, LoRASettings())) == ({full}, {full})
    with loading(frozen_in_bfloat16=True):
        assert types(Student(weights, LoRASettings())) == ({low}, {full})
        assert types(Student(weights, LoRASettings(), dtype="float32")) == ({full}, {full})
        assert types(Student(weights)) == (set(), {full})
        beside = [GRPOModule(weights, reference_dtype=name) for name in ("auto", None, "float32")]
    assert [types(module.student)[1] for module in beside] == [{full}] * 3
    assert [types(module.reference)[0] for module in beside] == [{low}, {full}, {full}]
    assert types(GRPOModule(weights).reference)[0] == {full}


def test_a_low_base_scores_and_learns_as_a_full_one(weights, processor) -> None:
    """Under autocast to bfloat16, where a full base is rounded to it in each product."""
    batch = make_batch(processor, [2.0, 0.87], [[12, 9], [7, 14]])
    found = {}
    for name in ("float32", "bfloat16"):
        torch.manual_seed(0)
        student = perturbed(Student(weights, LoRASettings(), dtype=name))
        with torch.autocast("cpu", torch.bfloat16):
            scores = student.completion_logprobs(batch)
            sft_loss(scores.logprobs, batch.completions.mask).backward()
        gradients = [p.grad for _, p in student.trainable_parameters()]
        assert {g.dtype for g in gradients} == {torch.float32}
        assert scores.logprobs.dtype == torch.float32
        found[name] = scores.logprobs.detach(), torch.cat([g.flatten() for g in gradients])
    (full, gradient), (low, low_gradient) = found.values()
    assert 0 < (full - low).abs().mean() < 0.05 * full.abs().mean()
    assert torch.nn.functional.cosine_similarity(gradient, low_gradient, 0) > 0.98


def test_an_export_keeps_what_a_low_base_has_no_digits_for(weights, tmp_path: Path) -> None:
    student = Student(weights, LoRASettings(), dtype="bfloat16")
    layer = student.architecture.language_model(student.base).layers[0].mlp.up_proj
    layer.lora_A["default"].weight.data.fill_(1e-3)
    layer.lora_B["default"].weight.data.fill_(1e-3)  # 8 ranks and a scale of 2: 1.6e-5 on each weight
    student.save_pretrained(tmp_path / "best")
    (name,) = (name for name in load_file(tmp_path / "best" / "model.safetensors") if "layers.0.mlp.up_proj" in name)
    exported = load_file(tmp_path / "best" / "model.safetensors")[name]
    expected = layer.get_base_layer().weight.float() + 1.6e-5
    torch.testing.assert_close(exported, expected, rtol=0, atol=1e-7)
    assert Student(str(tmp_path / "best"), dtype="float32").lora is None
