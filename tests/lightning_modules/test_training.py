"""SFT and GRPO steps inside a real Trainer."""

import contextlib
import copy
import shutil
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import ModelParallelStrategy
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from datamodules.batching.batch import AudioQABatch
from lightning_modules.grpo import GRPOModule
from lightning_modules.models.checkpoints.loading import loading
from lightning_modules.models.sharding import ShardingSettings
from lightning_modules.models.student import LoRASettings
from lightning_modules.objectives.losses import sft_loss
from lightning_modules.sft import SFTModule
from lightning_modules.student_training import LostGradients
from runtime.errors import UserError
from tests.support.students import make_batch


class Recorder(lightning.Callback):
    """Keeps what was logged after each training batch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, module, *_) -> None:
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def fit(
    module: lightning.LightningModule, batches: list[AudioQABatch], root: Path, **settings
) -> list[dict[str, float]]:
    recorder = Recorder()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=[recorder],
        default_root_dir=root,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return recorder.rows


def weights_of(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for _, p in module.student.trainable_parameters()])


def on_policy(module: GRPOModule | SFTModule, batch: AudioQABatch) -> AudioQABatch:
    """Give the batch the behaviour log-probabilities that its policy would report."""
    with torch.no_grad():
        batch.completions.logprobs = module.student.completion_logprobs(
            batch, getattr(module, "temperature", 1.0)
        ).logprobs
    return batch


@pytest.fixture
def batch(processor) -> AudioQABatch:
    return make_batch(processor, [2.0, 0.9, 1.4, 1.0], [[4, 7, 3, 6], [2, 5, 8, 1], [3, 3, 3, 3], [9, 2, 2, 7]])


def test_sft_learns_its_targets(weights, batch, tmp_path: Path) -> None:
    module = SFTModule(weights, lr=3e-3)
    with torch.no_grad():
        before = sft_loss(module.student.completion_logprobs(batch).logprobs, batch.completions.mask)
    rows = fit(module, [batch] * 30, tmp_path)
    assert rows[0]["train/loss"] == pytest.approx(before.item(), rel=1e-5)
    assert rows[-1]["train/loss"] < 0.5 * rows[0]["train/loss"]


def test_first_grpo_step_is_on_policy(weights, batch, tmp_path: Path) -> None:
    module = GRPOModule(weights, lr=1e-4)
    rows = fit(module, [on_policy(module, batch)], tmp_path)
    assert rows[0]["train/clip_ratio"] == 0
    assert rows[0]["train/kl"] == pytest.approx(0, abs=1e-7)
    assert rows[0]["train/sampling_logp_difference"] == pytest.approx(0, abs=1e-5)
    # every group holds two perfect completions (2) and two that are nothing (0): mean 1, deviation 1
    assert rows[0]["train/reward"] == 1
    assert rows[0]["train/reward/accuracy"] == 0.5
    assert rows[0]["train/reward_std"] == 1
    assert rows[0]["train/frac_reward_zero_std"] == 0
    assert rows[0]["train/truncated"] == 0
    assert rows[0]["train/completion_length"] == pytest.approx(68 / 16)
    assert rows[0]["train/grad_norm"] > 0


@pytest.mark.parametrize("lora", [None, LoRASettings()], ids=["full", "lora"])
def test_grpo_makes_rewarded_completions_likelier(weights, batch, tmp_path: Path, lora) -> None:
    module = GRPOModule(weights, lr=1e-3, lora=lora, num_iterations=2)
    with torch.no_grad():
        before = module.student.completion_logprobs(batch).logprobs.sum(-1)
    rows = fit(module, [on_policy(module, batch)] * 5, tmp_path)
    with torch.no_grad():
        after = module.student.completion_logprobs(batch).logprobs.sum(-1)
    change = (after - before).mean(0)
    assert change[1::2].mean() > change[0::2].mean() + 0.1
    assert rows[-1]["train/kl"] > 1e-6  # the policy moved away from the reference


def test_reference_stays_the_sft_policy(weights, batch, tmp_path: Path) -> None:
    module = GRPOModule(weights, lr=1e-3)
    before = [p.clone() for p in module.reference.parameters()]
    trained = weights_of(module)
    fit(module, [on_policy(module, batch)], tmp_path)
    assert all(torch.equal(p, q) for p, q in zip(module.reference.parameters(), before, strict=True))
    assert not torch.equal(weights_of(module), trained)
    assert not module.reference.training


@pytest.mark.parametrize("lora", [None, LoRASettings()], ids=["full", "lora"])
def test_a_reference_elsewhere_takes_the_same_step(weights, batch, tmp_path: Path, lora) -> None:
    here = GRPOModule(weights, lr=1e-3, beta=0.5, lora=lora, micro_batch_size=3)
    # what a server would say, moved away from the policy so that the first step feels it
    asked = here._reference_logprobs
    here._reference_logprobs = lambda *args: asked(*args) + 0.3
    scores = torch.cat([here._reference_logprobs(part, None) for part in (batch[:3], batch[3:])])
    elsewhere = GRPOModule(weights, lr=1e-3, beta=0.5, lora=lora, micro_batch_size=3, reference_urls=["http://a:1"])
    elsewhere.load_state_dict(here.state_dict(), strict=False)  # adapters begin at random
    assert elsewhere.reference is None and elsewhere.training_rollouts.reference_urls == ("http://a:1",)
    logged = fit(here, [on_policy(here, copy.copy(batch))], tmp_path)
    batch.completions.reference_logprobs = scores
    found = fit(elsewhere, [on_policy(elsewhere, copy.copy(batch))], tmp_path)
    assert found[0]["train/kl"] == pytest.approx(logged[0]["train/kl"], abs=1e-6) and found[0]["train/kl"] > 0.01
    torch.testing.assert_close(weights_of(elsewhere), weights_of(here), atol=1e-5, rtol=1e-4)


def test_what_a_reference_elsewhere_needs(weights, batch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"temperature is 0\.7 and model\.reference_urls"):
        GRPOModule(weights, temperature=0.7, reference_urls=["http://a:1"])
    module = GRPOModule(weights, reference_urls=["http://a:1"])
    with pytest.raises(UserError, match="nobody has asked them to score"):
        fit(module, [on_policy(module, batch)], tmp_path)
    assert GRPOModule(weights, beta=0.0, reference_urls=["http://a:1"]).training_rollouts.reference_urls == ()


def test_micro_batches_take_the_same_step(weights, batch, tmp_path: Path) -> None:
    results = []
    for rows in (None, 1, 3):
        module = GRPOModule(weights, lr=1e-5, micro_batch_size=rows)
        logged = fit(module, [on_policy(module, copy.copy(batch))] * 2, tmp_path)
        results.append((weights_of(module), logged[-1]["train/loss"], logged[-1]["train/grad_norm"]))
    for weight, loss, norm in results[1:]:
        torch.testing.assert_close(weight, results[0][0], atol=1e-5, rtol=1e-4)
        assert loss == pytest.approx(results[0][1], abs=1e-5)
        assert norm == pytest.approx(results[0][2], rel=1e-4)


def test_groups_without_variance_do_not_move_the_policy(weights, batch, tmp_path: Path) -> None:
    batch.completions.texts = [["cat"] * 4 for _ in range(4)]
    module = GRPOModule(weights, lr=1e-2, beta=0.0)
    before = weights_of(module)
    rows = fit(module, [on_policy(module, batch)], tmp_path)
    assert rows[0]["train/frac_reward_zero_std"] == 1
    assert torch.equal(weights_of(module), before)


def test_a_gradient_that_is_not_finite_ends_the_run_before_anything_is_kept(weights, batch, tmp_path: Path) -> None:
    module = GRPOModule(weights, num_iterations=2)
    second = copy.copy(on_policy(module, batch))
    second.features = batch.features * float("nan")
    keeper = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1)
    recorder = Recorder()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=[recorder, keeper],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.raises(LostGradients, match=r"norm is nan at step 2 \(train/kl nan.*--ckpt_path last"):
        trainer.fit(module, DataLoader([batch, second], batch_size=None))
    assert len(recorder.rows) == 1
    (kept,) = tmp_path.glob("*.ckpt")
    assert all(value.isfinite().all() for value in torch.load(kept, weights_only=False)["state_dict"].values())


def test_sft_ends_on_a_gradient_that_is_not_finite_before_weights_are_kept(weights, batch, tmp_path: Path) -> None:
    """The checkpoint of the third step comes before the metrics are read, which is after ten."""
    second = copy.copy(batch)
    second.features = batch.features * float("nan")
    keeper = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1)
    with pytest.raises(LostGradients, match=r"norm is nan at step 1: .*--ckpt_path last"):
        lightning.Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            callbacks=[keeper],
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(SFTModule(weights, lora=LoRASettings(rank=2)), DataLoader([batch, second, batch], batch_size=None))
    (kept,) = tmp_path.glob("*.ckpt")
    assert all(value.isfinite().all() for value in torch.load(kept, weights_only=False)["state_dict"].values())


def test_sft_says_the_norm_that_it_clips(weights, batch, tmp_path: Path) -> None:
    norms = [
        fit(SFTModule(weights), [batch], tmp_path, gradient_clip_val=limit)[0]["train/grad_norm"]
        for limit in (None, 1e-3)
    ]
    module = SFTModule(weights)
    sft_loss(module.student.completion_logprobs(batch).logprobs, batch.completions.mask).backward()
    expected = torch.cat([p.grad.flatten() for _, p in module.student.trainable_parameters()]).norm()
    assert norms == pytest.approx([expected.item()] * 2, rel=1e-5)


@pytest.mark.parametrize("settings", [{}, {"lora": LoRASettings(rank=2)}], ids=["full", "lora"])
def test_activations_in_main_memory_change_nothing(weights, batch, settings) -> None:
    found = []
    for offload in (False, True):
        torch.manual_seed(0)
        student = SFTModule(weights, gradient_checkpointing=True, activation_offload=offload, **settings).student
        sft_loss(student.completion_logprobs(batch).logprobs, batch.completions.mask).backward()
        found.append(torch.cat([p.grad.flatten() for _, p in student.trainable_parameters()]))
    assert torch.equal(*found)


def test_settings_that_belong_together_are_named(weights) -> None:
    with pytest.raises(UserError, match="activation_offload needs gradient_checkpointing"):
        SFTModule(weights, activation_offload=True)
    with pytest.raises(UserError, match=r"reduce_gradients 'never' is unknown: use auto, each, last"):
        ShardingSettings(reduce_gradients="never")


def test_several_epochs_keep_the_old_policy(weights, batch, tmp_path: Path) -> None:
    module = GRPOModule(weights, lr=3e-2, num_iterations=4, beta=0.0)
    rows = fit(module, [on_policy(module, batch)], tmp_path)
    assert rows[0]["train/clip_ratio"] > 0  # from the second epoch on the ratio leaves 1


@pytest.mark.parametrize("lora", [None, LoRASettings()], ids=["full", "lora"])
def test_low_precision_weights_are_refused(weights, batch, tmp_path: Path, lora) -> None:
    module = GRPOModule(weights, dtype="bfloat16", lora=lora)
    if lora is not None:
        fit(module, [on_policy(module, batch)], tmp_path)  # adapters are float32
        return
    with pytest.raises(UserError, match=r"bfloat16, where updates of 1e-06 are rounded away.*bf16-mixed"):
        fit(module, [batch], tmp_path)
    forced = GRPOModule(weights, dtype="bfloat16", allow_low_precision_weights=True)
    fit(forced, [on_policy(forced, batch)], tmp_path)


def test_bf16_true_is_refused(weights, batch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rounded away"):
        fit(GRPOModule(weights), [batch], tmp_path, precision="bf16-true")


def test_bf16_mixed_keeps_float32_weights(weights, batch, tmp_path: Path) -> None:
    module = GRPOModule(weights, lr=1e-3)
    rows = fit(module, [on_policy(module, batch)], tmp_path, precision="bf16-mixed")
    assert all(p.dtype == torch.float32 for _, p in module.student.trainable_parameters())
    assert 0 < rows[0]["train/sampling_logp_difference"] < 0.5  # measured: bf16 against float32


@pytest.mark.parametrize("module", [SFTModule, GRPOModule])
def test_a_batch_without_completions_is_named(weights, batch, tmp_path: Path, module) -> None:
    batch.completions = None
    with pytest.raises(UserError, match=r"TracesDataModule|LocalRollout"):
        fit(module(weights), [batch], tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_completions": 1}, "model.num_completions is 1"),
        ({"temperature": 0.0}, "must be above 0"),
        ({"num_iterations": 0}, "model.num_iterations is 0"),
        ({"micro_batch_size": 0}, "model.micro_batch_size is 0"),
    ],
)
def test_impossible_settings_are_refused(weights, settings, message) -> None:
    with pytest.raises(UserError, match=message):
        GRPOModule(weights, **settings)


def test_checkpoints_hold_the_trained_weights_only(weights) -> None:
    for module in (GRPOModule(weights), SFTModule(weights, lora=LoRASettings())):
        checkpoint = {"state_dict": module.state_dict()}
        module.on_save_checkpoint(checkpoint)
        assert checkpoint["state_dict"].keys() == {n for n, p in module.named_parameters() if p.requires_grad}
        assert not any(name.startswith("reference") for name in checkpoint["state_dict"])
        module.on_load_checkpoint(checkpoint)
        with pytest.raises(UserError, match="does not fit this model"):
            module.on_load_checkpoint({"state_dict": {"elsewhere": torch.zeros(1)}})


@pytest.mark.parametrize("make", [lambda w: GRPOModule(w), lambda w: SFTModule(w, lora=LoRASettings())])
def test_resuming_beside_other_frozen_weights_is_refused(weights, batch, tmp_path: Path, make) -> None:
    """GRPO's reference, or the base of the adapters, was written anew in the same folder; a small step is enough."""
    place = tmp_path / "weights"
    shutil.copytree(weights, place)
    module = make(str(place))
    module.configure_model()
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    same = make(str(place))
    same.configure_model()
    same.on_load_checkpoint(checkpoint)
    old = {name: value for name, value in checkpoint.items() if name != "frozen_weights"}
    moved = {name: value * (1 + 1e-5) for name, value in load_file(place / "model.safetensors").items()}
    save_file(moved, place / "model.safetensors", metadata={"format": "pt"})
    other = make(str(place))
    other.configure_model()
    with pytest.raises(UserError, match="that are not trained are not those that the checkpoint was trained with"):
        other.on_load_checkpoint(checkpoint)
    other.on_load_checkpoint(old)  # an older checkpoint says nothing about them


def test_resuming_sharded_beside_other_frozen_weights_is_refused(weights, batch, tmp_path: Path) -> None:
    """Adapters are trained on, but not once their base was replaced."""
    place = Path(shutil.copytree(weights, tmp_path / "weights"))

    def go_on(steps: int, checkpoint: Path | None = None) -> lightning.Trainer:
        with loading(deferred=True):
            module = SFTModule(str(place), lora=LoRASettings(rank=2), lr=1e-3)
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            strategy=ModelParallelStrategy(1, 1, save_distributed_checkpoint=False, process_group_backend="gloo"),
            max_steps=steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader([batch] * steps, batch_size=None), ckpt_path=checkpoint, weights_only=False)
        return trainer

    try:
        go_on(1).save_checkpoint(tmp_path / "sharded.ckpt")
        assert go_on(2, tmp_path / "sharded.ckpt").global_step == 2
        moved = {name: value * (1 + 1e-5) for name, value in load_file(place / "model.safetensors").items()}
        save_file(moved, place / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match="that are not trained are not those that the checkpoint was trained with"):
            go_on(2, tmp_path / "sharded.ckpt")
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


class Half(MixedPrecision):
    """What 16-mixed is on a GPU, a scaler of the loss, without its autocast: the right values are those of float32."""

    def __init__(self, scale: float) -> None:
        super().__init__("bf16-mixed", "cpu")
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale)

    def forward_context(self):
        return contextlib.nullcontext()


@pytest.mark.parametrize("make", [SFTModule, GRPOModule])
def test_a_scaled_loss_takes_the_same_step(weights, batch, tmp_path: Path, make) -> None:
    results = []
    for plugins in ([], [Half(1.0)], [Half(2.0**16)]):
        module = make(weights, lr=1e-3, micro_batch_size=2)
        clip = {"gradient_clip_val": 1.0} if make is SFTModule else {}
        rows = fit(module, [on_policy(module, batch)], tmp_path, plugins=plugins, **clip)
        results.append((weights_of(module), rows[0].get("train/grad_norm", 0.0)))
    for weight, norm in results[1:]:
        torch.testing.assert_close(weight, results[0][0], atol=2e-5, rtol=0)
        assert norm == pytest.approx(results[0][1], rel=1e-4)


def test_a_step_that_overflows_is_left_out(weights, batch, tmp_path: Path) -> None:
    module = GRPOModule(weights, lr=1e-3)
    before = weights_of(module)
    rows = fit(module, [on_policy(module, batch)], tmp_path, plugins=[Half(1e38)])
    assert rows[0]["train/overflow"] == 1
    assert torch.equal(weights_of(module), before)


@pytest.mark.parametrize("make", [SFTModule, GRPOModule])
def test_a_scale_that_cannot_be_found_ends_the_run(weights, batch, tmp_path: Path, make) -> None:
    module = make(weights)
    with pytest.raises(UserError, match=r"overflow float16.*bf16-mixed"):
        fit(module, [on_policy(module, batch)], tmp_path, plugins=[Half(0.5)])
