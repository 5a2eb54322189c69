"""Objectives inside a real Trainer: what is counted before micro-batches, a KL term in rewards, a moving reference."""

import copy
import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules.batching.batch import AudioQABatch
from lightning_modules import objectives
from lightning_modules.grpo import GRPOModule
from lightning_modules.models.student import LoRASettings
from lightning_modules.objectives.objective import Objective
from lightning_modules.reference_refresh import ReferenceRefresh
from runtime.errors import UserError
from tests.lightning_modules.test_training import fit, on_policy, weights_of
from tests.support.students import make_batch

o: Any = objectives


@pytest.fixture
def batch(processor) -> AudioQABatch:
    made = make_batch(processor, [2.0, 0.9, 1.4, 1.0], [[4, 7, 3, 6], [2, 5, 8, 1], [3, 3, 3, 3], [9, 2, 2, 7]])
    made.completions.finished[1, 1:3] = made.completions.finished[3, 0] = False
    made.completions.texts[2] = ["<think>x</think><answer>cat</answer>"] * 3 + ["dog"]  # the rewards disagree
    return made


def gradients(module: GRPOModule, batch: AudioQABatch, mean: float | None = None) -> torch.Tensor:
    """Gradients of one step, for which other ranks have such a mean count."""
    object.__setattr__(module, "_mean_over_ranks", lambda value: value if mean is None else torch.tensor(mean))
    object.__setattr__(module, "manual_backward", lambda loss: loss.backward())
    module.zero_grad()
    module._reward(batch)
    work = module._prepare(batch)
    for index in range(len(work.micro_batches)):
        module._backward(work, index)
    return torch.cat([p.grad.flatten().clone() for _, p in module.student.trainable_parameters()])


@pytest.mark.parametrize("average", [o.TokenMean(), o.ConstantLength(9)], ids=repr)
def test_a_batch_may_be_split_over_micro_batches_and_ranks(weights, batch, average) -> None:
    objective = Objective(average=average, mask_truncated=True, entropy=0.05, kl=o.K2())
    module = GRPOModule(weights, beta=0.3, objective=objective, temperature=0.7)
    with torch.no_grad():
        for p in module.reference.parameters():
            p.mul_(1.02)  # so that the KL term is felt
    whole = gradients(module, on_policy(module, batch))
    module.settings = dataclasses.replace(module.settings, micro_batch_size=1)
    torch.testing.assert_close(gradients(module, batch), whole, atol=2e-5, rtol=1e-3)
    counted = batch.completions.lengths[batch.completions.finished].sum() / 2
    halves = [gradients(module, batch[half], counted) for half in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(sum(halves) / 2, whole, atol=2e-5, rtol=1e-3)
    assert whole.norm() > 1e-3


def test_nothing_is_learnt_from_what_was_cut(weights, batch, tmp_path: Path) -> None:
    batch.completions.finished[:] = False
    module = GRPOModule(weights, lr=1e-2, beta=0.0, objective=Objective(mask_truncated=True, average=o.TokenMean()))
    before = weights_of(module)
    rows = fit(module, [on_policy(module, batch)], tmp_path)
    assert torch.equal(weights_of(module), before)
    assert rows[0]["train/truncated"] == 1 and rows[0]["train/loss"] == 0


def test_the_kl_term_in_the_reward(weights, batch, tmp_path: Path) -> None:
    """Rewards less beta times the sum of log policy - log reference, compared in groups; no KL in the loss."""
    module = GRPOModule(weights, beta=0.2, micro_batch_size=3, objective=Objective(kl=o.K1(in_reward=True)))
    reference = (-torch.rand(batch.completions.logprobs.shape)).masked_fill(~batch.completions.mask, 7.0)
    starts = iter((reference[:3], reference[3:]))
    module._reference_logprobs = lambda *_: next(starts)
    on_policy(module, batch)
    rows = fit(module, [batch], tmp_path)
    distance = ((batch.completions.logprobs - reference) * batch.completions.mask).sum(-1)
    rewards = module.last_totals - 0.2 * distance
    expected = (rewards - rewards.mean(-1, keepdim=True)) / rewards.std(-1, correction=0, keepdim=True)
    torch.testing.assert_close(module.last_advantages, expected, atol=1e-4, rtol=1e-4)
    assert rows[0]["train/reward"] == pytest.approx(module.last_totals.mean().item())  # as if there were none
    assert rows[0]["train/loss"] == pytest.approx(-expected.mean().item(), abs=1e-5)


def test_hopeless_responses_are_dropped_where_rollouts_are_stale(weights, batch, tmp_path: Path) -> None:
    """One of sixteen responses was sampled as e^9 times less likely than it is: without it the loss is that of 15."""
    rows, losses = [], []
    for stale, bound in ((True, 1000.0), (True, 10000.0), (False, 1000.0)):
        module = GRPOModule(weights, lr=1e-4, beta=0.0, micro_batch_size=2, max_sequence_ratio=bound)
        given = on_policy(module, copy.deepcopy(batch))
        given.completions.logprobs[1, 2, 0] -= 9.0
        given.completions.stale = stale
        rows.append(fit(module, [given], tmp_path)[0])
        advantage = module.last_advantages[1, 2].item()
        losses.append(rows[-1]["train/loss"])
    assert [row["train/dropped_sequences"] for row in rows] == [1 / 16, 0, 0]
    # on-policy each response adds its advantage, which sum to 0; the first token of the stale one weighs 2, not 1
    length = int(batch.completions.lengths[1, 2])
    assert losses == pytest.approx([advantage / 16, -advantage / length / 16, 0.0], abs=1e-5)
    assert "train/dropped_sequences" not in fit(GRPOModule(weights), [on_policy(module, batch)], tmp_path)[0]
    with pytest.raises(UserError, match=r"max_sequence_ratio is 1.0: it is above 1"):
        GRPOModule(weights, max_sequence_ratio=1.0)


def test_weights_of_rewards(weights, batch, tmp_path: Path) -> None:
    module = GRPOModule(weights, objective=Objective(reward_weights={"format": 0.5}))
    rows = fit(module, [on_policy(module, batch)], tmp_path)
    parts = [rows[0][f"train/reward/{name}"] for name in ("accuracy", "format")]
    assert rows[0]["train/reward"] == pytest.approx(parts[0] + 0.5 * parts[1])
    with pytest.raises(UserError, match=r"reward_weights names 'acuracy': the reward functions are accuracy, format"):
        GRPOModule(weights, objective=Objective(reward_weights={"acuracy": 2.0}))


@pytest.mark.parametrize(("share", "moved"), [(1.0, 1.0), (0.25, 0.25)])
def test_the_reference_follows_the_policy(weights, batch, tmp_path: Path, share: float, moved: float) -> None:
    module = GRPOModule(weights, lr=1e-3, num_iterations=2, reference_refresh=ReferenceRefresh(4, share))
    start = weights_of(module)
    fit(module, [on_policy(module, batch)], tmp_path)  # two steps
    assert torch.equal(reference_of(module), start)
    fit(module, [on_policy(module, batch)] * 2, tmp_path)
    torch.testing.assert_close(reference_of(module), start + moved * (weights_of(module) - start))
    assert not torch.equal(reference_of(module), start)


def reference_of(module: GRPOModule) -> torch.Tensor:
    names = [name for name, _ in module.student.trainable_parameters()]
    found = dict(module.reference.named_parameters())
    return torch.cat([found[name].detach().flatten().clone() for name in names])


def test_a_resumed_run_has_the_reference_that_moved(weights, batch, tmp_path: Path) -> None:
    import lightning
    from torch.utils.data import DataLoader

    def run(module: GRPOModule, **more: Any) -> None:
        keeper = ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=1)
        trainer = lightning.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, callbacks=[keeper], enable_progress_bar=False
        )
        trainer.fit(module, DataLoader([on_policy(module, batch)], batch_size=None), **more)

    first = GRPOModule(weights, lr=1e-3, reference_refresh=ReferenceRefresh(1))
    run(first)
    second = GRPOModule(weights, lr=1e-3, reference_refresh=ReferenceRefresh(1))
    assert not torch.equal(reference_of(second), reference_of(first))
    run(second, ckpt_path=tmp_path / "last.ckpt")
    assert torch.equal(reference_of(second), reference_of(first))
    with pytest.raises(UserError, match=r"are unknown \(such as reference"):
        run(GRPOModule(weights, lr=1e-3), ckpt_path=tmp_path / "last.ckpt")


def test_what_cannot_work_is_refused(weights, caplog) -> None:
    for settings in ({"beta": 0.0}, {"lora": LoRASettings()}, {"reference_urls": ["http://a:1"]}):
        with pytest.raises(UserError, match=r"model\.reference_refresh changes a reference that is kept here"):
            GRPOModule(weights, reference_refresh=ReferenceRefresh(), **settings)
    with pytest.raises(UserError, match="kept in bfloat16, where small changes are rounded away"):
        GRPOModule(weights, reference_refresh=ReferenceRefresh(share=0.1), reference_dtype="bfloat16")
    with pytest.raises(UserError, match=r"share is 0\.0: above 0"):
        ReferenceRefresh(share=0.0)
    with pytest.raises(UserError, match=r"model\.beta would have no effect"):
        GRPOModule(weights, objective=Objective(advantages=o.GDPO(), kl=o.K3(in_reward=True)))
    with caplog.at_level(logging.WARNING):
        GRPOModule(weights, objective=Objective(kl=o.K1()))
    assert "k1 in the loss is zero on average" in caplog.text


def test_all_rollouts_are_weighted_where_that_is_wanted(weights, batch, tmp_path: Path) -> None:
    module = GRPOModule(weights, objective=Objective(importance=o.SequenceMask(always=True)))
    on_policy(module, batch)
    batch.completions.logprobs = batch.completions.logprobs.clone()
    batch.completions.logprobs[0, 0, 0] -= 3.0  # what the trainer finds 20 times as likely as the server did
    rows = fit(module, [batch], tmp_path)
    assert rows[0]["train/importance_masked"] == pytest.approx(1 / 16)
    assert "train/importance_truncated" not in rows[0]
    assert copy.copy(batch).completions.stale is False
