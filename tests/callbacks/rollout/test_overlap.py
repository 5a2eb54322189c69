"""With max_staleness 1 the server samples the next batch while the learner works."""

import copy
import itertools
import time
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from benchmarks.fake_server import FakeServer
from callbacks.rollout.vllm_rollout import VLLMRollout
from datamodules.batching.batch import AudioQABatch
from datamodules.batching.sampler import ResumableLoader
from lightning_modules.grpo import GRPOModule
from lightning_modules.objectives.importance import TokenTruncation
from lightning_modules.objectives.objective import Objective
from runtime.errors import UserError
from tests.callbacks.rollout.test_vllm_rollout import rollouts, trainer
from tests.support.questions import Learner, Questions


class QuestionsAhead(Questions):
    """Questions from a loader that knows the next batch."""

    def train_dataloader(self) -> DataLoader[AudioQABatch]:
        return ResumableLoader(self.examples, self.batch_size, collate_fn=self.collate)


class Slow(Learner):
    """A learner that takes its time."""

    seconds = 0.0

    def training_step(self, batch: AudioQABatch, batch_idx: int) -> torch.Tensor:
        time.sleep(self.seconds)
        return super().training_step(batch, batch_idx)


class Steps(lightning.Callback):
    """When each training batch ended, and what was logged."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.logged: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, *_) -> None:
        self.ends.append(time.perf_counter())
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    @property
    def step(self) -> float:
        return min(after - before for before, after in itertools.pairwise(self.ends))  # the machine may be busy


def fit(tmp_path: Path, weights: Path, staleness: int, module=None, count: int = 8, **settings):
    module = module or Learner(str(weights))
    with FakeServer(weights) as server:
        seconds = getattr(module, "seconds", 0.0)
        server.behave = lambda route, body: time.sleep(seconds) if route.endswith("generate") else None
        steps = Steps()
        fit = trainer(tmp_path, rollouts(server, run_id="run", max_staleness=staleness), steps, **settings)
        fit.fit(module, QuestionsAhead(module.student.processor, count, 2))
    assert server.sampled_while_paused == 0
    return module, server, steps


def versions(module: Learner) -> list[str]:
    return [batch.completions.weight_version for batch in module.train_batches]


def test_each_batch_is_sampled_during_the_one_before(tmp_path: Path, server_weights: Path) -> None:
    module, server, steps = fit(tmp_path, server_weights, 1)
    assert versions(module) == ["run:0", "run:0", "run:1", "run:2"]
    assert [batch.completions.stale for batch in module.train_batches] == [False, True, True, True]
    assert [row["rollout/weight_version"] for row in steps.logged] == [0, 0, 1, 2]
    assert server.pushes() == ["run:0", "run:1", "run:2", "run:3"]  # nobody would sample with run:4
    assert [sent["version"] for sent in server.generated] == ["run:0"] * 4 + ["run:1"] * 2 + ["run:2"] * 2
    assert [q.id for batch in module.train_batches for q in batch.questions] == [f"test/{i}" for i in range(8)]


def test_without_staleness_everything_is_as_ever(tmp_path: Path, server_weights: Path) -> None:
    module, server, _ = fit(tmp_path, server_weights, 0)
    assert versions(module) == ["run:0", "run:1", "run:2", "run:3"]
    assert not any(batch.completions.stale for batch in module.train_batches)
    plain = Learner(str(server_weights))
    with FakeServer(server_weights) as other:
        trainer(tmp_path, rollouts(other, run_id="run")).fit(plain, Questions(plain.student.processor, 8, 2))
    for ours, theirs in zip(module.train_batches, plain.train_batches, strict=True):
        assert torch.equal(ours.completions.ids, theirs.completions.ids)
    assert server.pushes() == other.pushes()


def test_requests_have_the_seeds_of_the_step_that_they_are_for(tmp_path: Path, server_weights: Path) -> None:
    seeds = []
    for staleness in (0, 1):
        _, server, _ = fit(tmp_path, server_weights, staleness)
        seeds.append({sent["body"]["sampling_params"]["seed"] for sent in server.generated})
    assert seeds[0] == seeds[1] and len(seeds[0]) == 8


def test_validation_sees_new_weights_while_the_next_batch_waits(tmp_path: Path, server_weights: Path) -> None:
    settings = {"limit_val_batches": 1, "val_check_interval": 1, "num_sanity_val_steps": 0}
    module, server, _ = fit(tmp_path, server_weights, 1, count=6, **settings)
    greedy = [one["version"] for one in server.generated if one["body"]["sampling_params"]["temperature"] == 0]
    assert greedy == ["run:1"] * 2 + ["run:2"] * 2 + ["run:3"] * 2
    assert versions(module) == ["run:0", "run:0", "run:1"]


def test_each_epoch_begins_on_policy(tmp_path: Path, server_weights: Path) -> None:
    module, _, _ = fit(tmp_path, server_weights, 1, count=4, max_epochs=2)
    assert versions(module) == ["run:0", "run:0", "run:2", "run:2"]


def test_the_first_batch_after_resuming_is_on_policy(tmp_path: Path, server_weights: Path) -> None:
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    with FakeServer(server_weights) as server:
        for stop, checkpoint, expected in ((2, None, ["run:0", "run:0"]), (4, "step=2.ckpt", ["run:2", "run:2"])):
            module = Learner(str(server_weights))
            settings = {"max_steps": stop, "enable_checkpointing": True}
            fit = trainer(tmp_path, rollouts(server, run_id="run", max_staleness=1), copy.deepcopy(keep), **settings)
            data = QuestionsAhead(module.student.processor, 8, 2)
            fit.fit(module, data, ckpt_path=checkpoint and tmp_path / checkpoint)
            assert versions(module) == expected
            assert [batch.completions.stale for batch in module.train_batches] == [False, True]


@pytest.mark.parametrize("settings", [{"max_steps": 2}, {"limit_train_batches": 2}], ids=str)
def test_nothing_is_sampled_that_is_not_trained(tmp_path: Path, server_weights: Path, settings) -> None:
    _, server, _ = fit(tmp_path, server_weights, 1, **settings)
    assert len(server.generated) == 4


def test_a_refusal_in_the_meantime_ends_the_run(tmp_path: Path, server_weights: Path) -> None:
    module = Learner(str(server_weights))
    with FakeServer(server_weights) as server:

        def behave(route, body):
            return (400, "too long") if route.endswith("generate") and len(server.generated) >= 2 else None

        server.behave = behave
        with pytest.raises(UserError, match=r"refused \(400\): too long"):
            trainer(tmp_path, rollouts(server, max_staleness=1)).fit(
                module, QuestionsAhead(module.student.processor, 6, 2)
            )


def test_a_loader_that_does_not_look_ahead_is_refused(tmp_path: Path, server_weights: Path) -> None:
    module = Learner(str(server_weights))
    with FakeServer(server_weights) as server, pytest.raises(UserError, match="a loader that knows the next batch"):
        trainer(tmp_path, rollouts(server, max_staleness=1)).fit(module, Questions(module.student.processor, 4, 2))


def test_more_staleness_is_refused() -> None:
    with pytest.raises(UserError, match="max_staleness is 2"):
        VLLMRollout(["http://127.0.0.1:8000"], max_staleness=2)


def test_grpo_weights_stale_rollouts_and_logs_what_it_truncated(tmp_path: Path, server_weights: Path) -> None:
    """The fake server says log-probability -1 of every token; what the policy finds likelier is truncated."""
    module = GRPOModule(
        str(server_weights), num_completions=2, lr=1e-4, objective=Objective(importance=TokenTruncation(1.0))
    )
    _, _, steps = fit(tmp_path, server_weights, 1, module, count=6)
    assert steps.logged[0]["train/importance_truncated"] == 0  # on-policy: not weighted
    for row in steps.logged[1:]:
        assert 0 <= row["train/importance_truncated"] < 1
    _, _, steps = fit(tmp_path, server_weights, 0, module, count=6)
    assert all(row["train/importance_truncated"] == 0 for row in steps.logged)
