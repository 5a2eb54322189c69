"""Rollouts that are scored by servers which hold the reference, with recording servers."""

import logging
from pathlib import Path

import pytest
import torch

from benchmarks.fake_server import FakeServer
from callbacks.rollout.reference_servers import ReferenceServers
from callbacks.rollout.vllm_rollout import VLLMRollout
from inference.vllm.client import ServerError
from lightning_modules.doors import TrainingRollouts
from runtime.errors import UserError
from tests.callbacks.rollout.test_overlap import QuestionsAhead
from tests.callbacks.rollout.test_vllm_rollout import rollouts, trainer
from tests.support.questions import Learner, Questions


class Scored(Learner):
    """Wants its completions scored by servers."""

    urls: tuple[str, ...] = ()

    @property
    def training_rollouts(self) -> TrainingRollouts:
        return TrainingRollouts(self.num_completions, 1.0, reference_urls=self.urls)


def learner(weights: Path, *servers: FakeServer) -> Scored:
    module = Scored(str(weights))
    module.urls = tuple(server.url for server in servers)
    return module


@pytest.fixture
def servers(server_weights: Path):
    with FakeServer(server_weights) as drawing, FakeServer(server_weights) as scoring:
        yield drawing, scoring


def fit(tmp_path: Path, module: Scored, callback: VLLMRollout, count: int = 2, **settings):
    run = trainer(tmp_path, callback, num_sanity_val_steps=0, **settings)
    run.fit(module, Questions(module.student.processor, count, 2))
    return run


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_each_completion_is_scored_and_the_reference_gets_no_weights(
    tmp_path: Path, server_weights: Path, servers, max_staleness: int, monkeypatch
):
    drawing, scoring = servers
    module = learner(server_weights, scoring)
    if max_staleness:
        monkeypatch.setattr("callbacks.rollout.vllm_rollout.look_ahead", lambda trainer: None)
        monkeypatch.setattr("callbacks.rollout.vllm_rollout.next_batch", lambda *_: None)
    run = fit(tmp_path, module, rollouts(drawing, max_staleness=max_staleness), 4)
    assert scoring.pushes() == [] and drawing.pushes()
    assert float(run.callback_metrics["time/reference"]) > 0
    for batch in module.train_batches:
        done = batch.completions
        assert done.reference_logprobs.shape == done.ids.shape
        for row in range(2):
            for index in range(2):
                ids, length = done.ids[row, index].tolist(), int(done.lengths[row, index])
                prompt = batch.prompt_ids[row, : batch.prompt_lengths[row]].tolist()
                rows = scoring._scores(prompt + ids[:length])[len(prompt) :]
                wanted = [row[str(token)]["logprob"] for row, token in zip(rows, ids, strict=False)]
                assert done.reference_logprobs[row, index, :length].tolist() == pytest.approx(wanted)


def test_reference_servers_that_came_back_pass_their_gate_within_the_batch(
    tmp_path: Path, server_weights: Path, servers, monkeypatch
):
    """Also where completions were drawn during the batch before; one may have been started anew meanwhile."""
    drawing, scoring = servers
    passed: list[str] = []
    monkeypatch.setattr(
        ReferenceServers, "pass_alone", lambda self, trainer, module, batch, _: passed.append(batch.questions[0].id)
    )
    module = learner(server_weights, scoring)
    run = trainer(tmp_path, rollouts(drawing, max_staleness=1), num_sanity_val_steps=0)
    run.fit(module, QuestionsAhead(module.student.processor, 4, 2))
    assert [batch.completions.stale for batch in module.train_batches] == [False, True]
    assert set(passed) == {batch.questions[0].id for batch in module.train_batches}


def test_evaluation_is_not_scored(tmp_path: Path, server_weights: Path, servers):
    drawing, scoring = servers
    module = learner(server_weights, scoring)
    fit(tmp_path, module, rollouts(drawing), limit_val_batches=1)
    assert len(scoring.generated) == 2 * 2  # of training, each alone
    assert module.val_batches[0].completions.reference_logprobs is None


def test_a_lost_reference_is_waited_for(tmp_path: Path, server_weights: Path, servers):
    drawing, scoring = servers
    failed = []

    def fail_once(route: str, body):
        if route.endswith("generate") and "content_parts" in body and not failed:
            failed.append(route)
            return 500, "engine died"

    scoring.behave = fail_once
    module = learner(server_weights, scoring)
    fit(tmp_path, module, rollouts(drawing))
    assert failed and module.train_batches[0].completions.reference_logprobs.min() < -1


def test_servers_that_cannot_be_the_reference(tmp_path: Path, server_weights: Path, servers):
    drawing, scoring = servers
    with pytest.raises(UserError, match="in server_urls and in reference_urls"):
        fit(tmp_path, learner(server_weights, drawing), rollouts(drawing))
    scoring.version = "other:3"
    with pytest.raises(UserError, match="was given weights 'other:3' by a run"):
        fit(tmp_path, learner(server_weights, scoring), rollouts(drawing))


def test_weights_that_are_pushed_to_the_reference_in_mid_run_are_noticed(tmp_path: Path, server_weights, servers):
    drawing, scoring = servers

    def push(route: str, body) -> None:
        if route.endswith("generate") and "content_parts" in body:
            scoring.version = "other:1"

    scoring.behave = push
    with pytest.raises(ServerError, match="was given weights 'other:1' while it scored"):
        fit(tmp_path, learner(server_weights, scoring), rollouts(drawing))


def test_a_reference_that_comes_back_with_other_weights_is_refused(tmp_path: Path, server_weights: Path, servers):
    drawing, scoring = servers

    def restart(route: str, body):
        if len(scoring.generated) == 4 and route.endswith("generate"):  # after the first batch
            scoring.weights, scoring.behave = "another checkpoint", lambda route, body: None
            return 500, "engine died"

    scoring.behave = restart
    with pytest.raises(ServerError, match="does not hold the reference that this run began with"):
        fit(tmp_path, learner(server_weights, scoring), rollouts(drawing), 4)


def test_a_resumed_run_knows_its_reference(tmp_path: Path, server_weights: Path, servers, caplog):
    drawing, scoring = servers
    first = rollouts(drawing, run_id="run")
    run = fit(tmp_path, learner(server_weights, scoring), first)
    run.save_checkpoint(tmp_path / "kept.ckpt", weights_only=False)
    kept = torch.load(tmp_path / "kept.ckpt", weights_only=True)["callbacks"]["VLLMRollout"]
    assert kept == first.state_dict() and kept["reference"]["completion"]

    def resume() -> None:
        again = trainer(tmp_path, rollouts(drawing), max_epochs=2, num_sanity_val_steps=0)
        module = learner(server_weights, scoring)
        again.fit(module, Questions(module.student.processor, 2, 2), ckpt_path=tmp_path / "kept.ckpt")

    resume()
    scoring.weights = "another checkpoint"
    with pytest.raises(ServerError, match="does not hold the reference that this run began with"):
        resume()


def test_a_reference_that_nobody_can_check_is_said(tmp_path: Path, server_weights: Path, servers, caplog):
    drawing, scoring = servers
    run = fit(tmp_path, learner(server_weights), rollouts(drawing))
    run.save_checkpoint(tmp_path / "without.ckpt")
    with caplog.at_level(logging.WARNING, logger="lightning.pytorch.rollout"):
        module = learner(server_weights, scoring)
        again = trainer(tmp_path, rollouts(drawing), max_epochs=2, num_sanity_val_steps=0)
        again.fit(module, Questions(module.student.processor, 2, 2), ckpt_path=tmp_path / "without.ckpt")
    assert "whether they hold the SFT policy cannot be found out" in caplog.text
