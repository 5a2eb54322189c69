"""Cached audio embeddings change nothing but the time."""

import copy
import os
import time
from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from callbacks.audio_cache import AudioCache, fingerprint
from lightning_modules.models.student import LoRASettings
from lightning_modules.sft import SFTModule
from runtime.errors import UserError
from tests.support.students import make_batch


@pytest.fixture(scope="module")
def student_weights(tmp_path_factory) -> str:
    from tests.support.tiny_model import build

    return str(build(tmp_path_factory.mktemp("student"), seconds=2))


def fit(weights: str, root: Path, *callbacks: lightning.Callback, **settings) -> tuple[list[float], int]:
    """Train on two batches for two epochs; returns the losses and how often the projector ran."""
    torch.manual_seed(0)  # of the adapters
    module = SFTModule(weights, lr=1e-3, **{"lora": LoRASettings(), **settings})
    ran, losses = [], []
    module.student.base.model.multi_modal_projector.register_forward_hook(lambda *_: ran.append(1))

    class Losses(lightning.Callback):
        def on_train_batch_end(self, trainer, *_) -> None:
            losses.append(float(trainer.callback_metrics["train/loss"]))

    processor = module.student.processor
    batches = [make_batch(processor, [2.0, 0.9], [[4, 7], [2, 5]]), make_batch(processor, [1.1], [[6, 3]], seed=5)]
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=root, callbacks=[*callbacks, Losses()],
    )  # fmt: skip
    trainer.fit(module, DataLoader([copy.deepcopy(b) for b in batches], batch_size=None))
    return losses, len(ran)


def test_losses_are_the_same_and_each_clip_is_encoded_once(student_weights, tmp_path: Path) -> None:
    plain, ran = fit(student_weights, tmp_path)
    assert ran == 4
    first, ran = fit(student_weights, tmp_path, AudioCache(str(tmp_path / "cache")))
    assert ran == 2  # in the first epoch
    again, ran = fit(student_weights, tmp_path, AudioCache(str(tmp_path / "cache")))
    assert ran == 0
    assert first == pytest.approx(plain, abs=1e-5) and again == pytest.approx(plain, abs=1e-5)
    files = list((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 3 and len(list((tmp_path / "cache").rglob("*.*"))) == 3  # nothing half-written


def test_a_damaged_file_is_made_again(student_weights, tmp_path: Path) -> None:
    plain, _ = fit(student_weights, tmp_path, AudioCache(str(tmp_path / "cache")))
    damaged = next((tmp_path / "cache").rglob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    again, ran = fit(student_weights, tmp_path, AudioCache(str(tmp_path / "cache")))
    assert ran == 1 and again == pytest.approx(plain, abs=1e-5)


def test_what_killed_runs_left_is_removed(student_weights, tmp_path: Path) -> None:
    fit(student_weights, tmp_path, AudioCache(str(tmp_path / "cache")))
    folder = next((tmp_path / "cache").rglob("*.safetensors")).parent
    for name, seconds in (("old", 7200), ("new", 10)):  # the latter may be another run's at work
        (folder / f"{name}.partial").write_bytes(b"torn")
        os.utime(folder / f"{name}.partial", (time.time() - seconds,) * 2)
    fit(student_weights, tmp_path, AudioCache(str(tmp_path / "cache")))
    assert [path.name for path in (tmp_path / "cache").rglob("*.partial")] == ["new.partial"]


def test_other_weights_have_another_folder(student_weights) -> None:
    student = SFTModule(student_weights, lora=LoRASettings()).student
    before = fingerprint(student, "32-true")
    assert fingerprint(student, "bf16-mixed") != before
    student.base.model.multi_modal_projector.linear.bias.data += 1e-3
    assert fingerprint(student, "32-true") != before


def test_a_trained_tower_is_refused(student_weights, tmp_path: Path) -> None:
    cache = AudioCache(str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"trained \(audio tower, .*\): set model.freeze_audio_tower to true"):
        fit(student_weights, tmp_path, cache, lora=None)
    with pytest.raises(UserError, match=r"trained \(adapters of audio tower\): set model.freeze_audio_tower to true"):
        fit(student_weights, tmp_path, cache, lora=LoRASettings(target_modules=["q_proj"]))


def test_micro_batches_take_their_share(student_weights) -> None:
    student = SFTModule(student_weights, lora=LoRASettings()).student
    batch = make_batch(student.processor, [2.0, 0.9], [[4, 7], [2, 5]])
    with torch.no_grad():
        whole = student.completion_logprobs(batch).logprobs
        counts = (batch.prompt_ids == student.base.config.audio_token_id).sum(1).tolist()
        batch.audio = list(student.encode_audio(batch).split(counts))
        batch.features = torch.zeros_like(batch.features)  # not looked at
        second = student.completion_logprobs(batch[1:2]).logprobs
    torch.testing.assert_close(second, whole[1:2], atol=1e-5, rtol=0)
