"""The rollout callback against recording servers."""

import functools
import threading
import time
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch

from benchmarks.fake_server import FakeServer
from callbacks.rollout import vllm_rollout
from callbacks.rollout.rollout_callback import request_seeds
from callbacks.rollout.vllm_rollout import VLLMRollout
from inference.server_pool import ServerPool
from lightning_modules.models.student import LoRASettings
from runtime.errors import UserError
from tests.support.questions import Learner, Questions


def rollouts(*servers: FakeServer, **settings) -> VLLMRollout:
    """A callback without parity gate: the servers' log-probabilities are made up."""
    known = {"max_new_tokens": 6, "parity_gate": False, "wait_seconds": 5, "retry_seconds": 10, "seed": 7}
    return VLLMRollout([server.url for server in servers], **{**known, **settings})


def trainer(tmp_path: Path, *callbacks: lightning.Callback, **settings) -> lightning.Trainer:
    known = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "limit_val_batches": 0,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
    }
    return lightning.Trainer(callbacks=list(callbacks), **{**known, **settings})


def test_fills_batches_and_pushes_after_each_step(tmp_path: Path, server_weights: Path):
    module = Learner(str(server_weights), num_completions=3)
    with FakeServer(server_weights) as server:
        callback = rollouts(server, run_id="run")
        trainer(tmp_path, callback).fit(module, Questions(module.student.processor, 6, 2))
    assert server.pushes() == ["run:0", "run:1", "run:2", "run:3"]
    assert [sent["version"] for sent in server.generated] == ["run:0"] * 2 + ["run:1"] * 2 + ["run:2"] * 2
    assert server.sampled_while_paused == 0
    for batch, version in zip(module.train_batches, ["run:0", "run:1", "run:2"], strict=True):
        done = batch.completions
        assert done.ids.shape == (2, 3, 6) and done.weight_version == version
        assert done.mask.all() and done.finished.all()
        assert (done.ids[..., -1] == 2).all() and torch.equal(done.logprobs, -torch.ones(2, 3, 6))
        tokenizer = module.student.processor.tokenizer
        assert done.texts[1][2] == tokenizer.decode(done.ids[1, 2, :-1])
    first = server.generated[0]
    sent = {len(one["samples"]): one["samples"] for one in server.generated[:2]}
    for waveform in module.train_batches[0].waveforms:
        assert np.array_equal(sent[len(waveform)], waveform)  # the very same samples
    wanted = first["body"]["sampling_params"]
    assert wanted["n"] == 3 and wanted["temperature"] == 1.0 and wanted["stop_token_ids"] == [2, 0]
    seeds = {one["body"]["sampling_params"]["seed"] for one in server.generated[:2]}
    assert seeds == set(request_seeds(7, 0, ["test/0", "test/1"]))


def test_pushes_merged_adapters(tmp_path: Path, server_weights: Path):
    module = Learner(str(server_weights), lora=LoRASettings(rank=2))
    with FakeServer(server_weights) as server:
        trainer(tmp_path, rollouts(server, run_id="run")).fit(module, Questions(module.student.processor, 2, 1))
    assert server.pushes() == ["run:0", "run:1", "run:2"]


def test_validation_is_greedy_and_sees_new_weights(tmp_path: Path, server_weights: Path):
    module = Learner(str(server_weights))
    with FakeServer(server_weights) as server:
        fit = trainer(tmp_path, rollouts(server, run_id="run"), limit_val_batches=1, num_sanity_val_steps=1)
        fit.fit(module, Questions(module.student.processor, 2, 2))
    greedy = [one for one in server.generated if one["body"]["sampling_params"]["temperature"] == 0]
    assert [one["version"] for one in greedy] == ["run:0", "run:0", "run:1", "run:1"]
    assert {one["body"]["sampling_params"]["n"] for one in greedy} == {1}
    assert module.val_batches[0].completions.ids.shape == (2, 1, 6)
    assert server.pushes() == ["run:0", "run:1"]  # not again for validation


def test_training_batches_of_modules_that_learn_targets_are_left_alone(tmp_path: Path, server_weights: Path):
    module = Learner(str(server_weights))
    module.rollouts_in_training = False
    module.training_step = lambda batch, batch_idx: None if batch.completions is None else pytest.fail("rolled out")
    with FakeServer(server_weights) as server:
        trainer(tmp_path, rollouts(server)).fit(module, Questions(module.student.processor, 2, 2))
    assert server.pushes() == [] and server.generated == []


def test_requests_are_spread_by_load(tmp_path: Path, server_weights: Path):
    module = Learner(str(server_weights), num_completions=2)
    slow_down = threading.Event()
    with FakeServer(server_weights, settings={"max_num_seqs": 8}) as one, FakeServer(server_weights) as two:
        one.settings["max_num_seqs"] = 4
        two.behave = lambda route, body: time.sleep(0.3) if route.endswith("generate") and slow_down.is_set() else None
        data = Questions(module.student.processor, 16, 16)
        trainer(tmp_path, rollouts(one, two)).fit(module, data)
        assert one.most_at_once <= 4  # never more than it computes at once
        assert len(one.generated) + len(two.generated) == 16
        assert min(len(one.generated), len(two.generated)) >= 2
        slow_down.set()
        one.generated.clear()
        two.settings["max_num_seqs"] = 4
        trainer(tmp_path, rollouts(one, two)).fit(module, data)
    assert len(one.generated) > 8  # the quick one does more


def test_same_seeds_same_completions_however_servers_are_many(tmp_path: Path, server_weights: Path):
    runs = []
    for servers in (1, 2):
        module = Learner(str(server_weights))
        fakes = [FakeServer(server_weights) for _ in range(servers)]
        for fake in fakes:
            fake.start()
        trainer(tmp_path, rollouts(*fakes)).fit(module, Questions(module.student.processor, 8, 4))
        for fake in fakes:
            fake.stop()
        runs.append(torch.cat([batch.completions.ids for batch in module.train_batches]))
    assert torch.equal(*runs)


def test_waits_for_a_server_that_starts_late(tmp_path: Path, server_weights: Path, caplog):
    module = Learner(str(server_weights))
    server = FakeServer(server_weights)
    server.start()
    server.stop()
    timer = threading.Timer(1.0, server.start)
    timer.start()
    with caplog.at_level("INFO", "lightning.pytorch.rollout"):
        trainer(tmp_path, rollouts(server)).fit(module, Questions(module.student.processor, 2, 2))
    server.stop()
    assert f"Waiting for the rollout server {server.url}" in caplog.text
    assert "python -m inference.vllm_server" in caplog.text


def test_gives_up_on_a_server_that_never_starts(tmp_path: Path, server_weights: Path):
    module = Learner(str(server_weights))
    callback = VLLMRollout(["http://127.0.0.1:9"], wait_seconds=0.3)
    with pytest.raises(UserError, match=r"no rollout server answered at http://127.0.0.1:9 .*inference.vllm_server"):
        trainer(tmp_path, callback).fit(module, Questions(module.student.processor, 2, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"logprobs_mode": "raw_logprobs"}, "--logprobs-mode processed_logprobs"),
        ({"logprobs_mode": "processed_logits"}, "--logprobs-mode processed_logprobs"),
        ({"max_num_seqs": 1}, "--max-num-seqs 2"),
        ({"max_model_len": 20}, "lower max_new_tokens or start the server with --max-model-len"),
    ],
)
def test_refuses_a_server_started_wrongly(tmp_path: Path, server_weights: Path, settings, message):
    module = Learner(str(server_weights))
    with FakeServer(server_weights, settings=settings) as server, pytest.raises(UserError, match=message):
        trainer(tmp_path, rollouts(server)).fit(module, Questions(module.student.processor, 2, 2))


def test_refuses_a_server_with_another_model(tmp_path: Path, server_weights: Path, tmp_path_factory):
    from tests.support.tiny_model import build

    other = build(tmp_path / "other", seconds=1)
    module = Learner(str(server_weights))
    with (
        FakeServer(other) as server,
        pytest.raises(UserError, match=r"nothing was sent: audio_tower.embed_positions.weight is \[100, 64\]"),
    ):
        trainer(tmp_path, rollouts(server)).fit(module, Questions(module.student.processor, 2, 2))
    assert server.pushes() == [] and not any(route == "/pause" for route, _ in server.calls)


@pytest.mark.parametrize("urls", [[], ["127.0.0.1:8000"], ["http://"]])
def test_refuses_addresses_that_are_none(urls):
    with pytest.raises(UserError, match="server_urls"):
        VLLMRollout(urls)


def test_prompts_that_differ_end_the_run(tmp_path: Path, server_weights: Path):
    module = Learner(str(server_weights))
    data = Questions(module.student.processor, 2, 2)
    collator = data.collate

    def collate(examples):
        batch = collator(examples)
        batch.request_ids[1] = [*batch.request_ids[1][:-1], 77]
        return batch

    data.collate = collate
    with FakeServer(server_weights) as server, pytest.raises(UserError, match="parity of prompts failed: for test/1"):
        trainer(tmp_path, rollouts(server)).fit(module, data)


def test_a_request_that_the_server_refuses_ends_the_run(tmp_path: Path, server_weights: Path):
    module = Learner(str(server_weights))
    with FakeServer(server_weights) as server:
        server.behave = lambda route, body: (400, "too long") if route.endswith("generate") else None
        with pytest.raises(UserError, match=r"refused \(400\): too long"):
            trainer(tmp_path, rollouts(server)).fit(module, Questions(module.student.processor, 2, 2))


def test_a_request_that_always_fails_is_to_blame_itself(tmp_path: Path, server_weights: Path):
    module = Learner(str(server_weights))
    with FakeServer(server_weights) as server:
        server.behave = lambda route, body: (500, "garbage") if route.endswith("generate") else None
        with pytest.raises(
            UserError, match=r"question test/0 \(0.wav\): .*garbage \(4 times, .*the server itself is well"
        ):
            trainer(tmp_path, rollouts(server, retry_seconds=60)).fit(module, Questions(module.student.processor, 1, 1))


def test_a_clip_that_the_server_gives_up_is_named_after_a_few_tries(tmp_path: Path, server_weights: Path):
    module = Learner(str(server_weights))
    data = Questions(module.student.processor, 4, 4)
    bad = len(data.examples[2].waveform)
    with FakeServer(server_weights) as server:
        server.finish_reason = lambda samples: "abort" if len(samples) == bad else "stop"
        with pytest.raises(
            UserError, match=r"question test/2 \(2.wav\): .*gave up a request \(abort\).*replace the clip"
        ):
            trainer(tmp_path, rollouts(server, retry_seconds=600)).fit(module, data)
    assert sum(len(one["samples"]) == bad for one in server.generated) == 4


def test_a_restarted_server_gets_its_weights_back(tmp_path: Path, server_weights: Path):
    module = Learner(str(server_weights))
    with FakeServer(server_weights) as server:

        class Crash(lightning.Callback):
            """Kills the server under the second batch's requests, and starts it again a second later."""

            def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
                if batch_idx == 1:
                    threading.Timer(0.01, server.stop).start()
                    threading.Timer(1.0, server.start).start()

        server.behave = lambda route, body: time.sleep(0.1) if route.endswith("generate") else None
        fit = trainer(tmp_path, Crash(), rollouts(server, run_id="run"))
        fit.fit(module, Questions(module.student.processor, 12, 4))
    assert server.pushes() == ["run:0", "run:1", "run:1", "run:2", "run:3"]
    assert [batch.completions.weight_version for batch in module.train_batches] == ["run:0", "run:1", "run:2"]
    assert sum(len(batch) for batch in module.train_batches) == 12


def test_a_lost_server_is_replaced_by_the_others_and_rejoins(tmp_path: Path, server_weights: Path):
    module = Learner(str(server_weights))
    with FakeServer(server_weights) as one, FakeServer(server_weights) as two:

        class Crash(lightning.Callback):
            def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
                if batch_idx == 1:
                    two.stop()
                if batch_idx == 3:
                    two.start()
                if batch_idx > 3:
                    time.sleep(0.5)

        fit = trainer(tmp_path, Crash(), rollouts(one, two, run_id="run"))
        fit.fit(module, Questions(module.student.processor, 32, 4))
    assert one.pushes() == [f"run:{step}" for step in range(9)]
    assert two.pushes()[-1] == "run:8"  # it came back
    assert len(module.train_batches) == 8


def test_gives_up_when_no_server_comes_back(tmp_path: Path, server_weights: Path):
    module = Learner(str(server_weights))
    server = FakeServer(server_weights)
    server.start()

    class Crash(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            server.stop()

    with pytest.raises(UserError, match="rollouts failed for 1 s and no server came back"):
        trainer(tmp_path, Crash(), rollouts(server, retry_seconds=1)).fit(
            module, Questions(module.student.processor, 2, 2)
        )


def test_a_server_left_paused_is_woken(tmp_path: Path, server_weights: Path, monkeypatch, caplog):
    monkeypatch.setattr(vllm_rollout, "ServerPool", functools.partial(ServerPool, watch_seconds=0.2))
    module = Learner(str(server_weights))
    with FakeServer(server_weights) as server:

        class Pause(lightning.Callback):
            def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
                server.paused = True

        fit = trainer(tmp_path, Pause(), rollouts(server, run_id="run"))
        fit.fit(module, Questions(module.student.processor, 2, 2))
    assert "is paused although no weights are being pushed" in caplog.text
    assert server.pushes() == ["run:0", "run:0", "run:1"]


def test_two_runs_cannot_share_a_server(tmp_path: Path, server_weights: Path):
    module = Learner(str(server_weights))
    with FakeServer(server_weights) as server:

        class Intruder(lightning.Callback):
            def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
                if batch_idx == 1:
                    server.version = "other:5"

        with pytest.raises(UserError, match="was given weights 'other:5' by another run"):
            trainer(tmp_path, Intruder(), rollouts(server, run_id="run")).fit(
                module, Questions(module.student.processor, 4, 2)
            )


def test_a_failed_load_leaves_the_server_paused_until_a_good_one(tmp_path: Path, server_weights: Path):
    module = Learner(str(server_weights))
    failures = iter([(500, "worker failed"), (500, "worker failed")])
    with FakeServer(server_weights) as server:

        def behave(route, body):
            if route == "/resume":
                assert failed == [], "resumed with half of the weights"
            if route == "/collective_rpc" and "is_checkpoint_format" not in body["kwargs"]:
                answer = next(failures, None)
                failed[:] = [answer] if answer else []
                return answer
            return None

        failed: list = []
        server.behave = behave
        trainer(tmp_path, rollouts(server, run_id="run")).fit(module, Questions(module.student.processor, 2, 2))
    assert server.pushes() == ["run:0", "run:1"]


def test_weights_are_removed_at_the_end(tmp_path: Path, server_weights: Path):
    module = Learner(str(server_weights))
    sync = tmp_path / "sync"
    seen = []
    with FakeServer(server_weights) as server:
        server.behave = lambda route, body: seen.append(body) if route == "/collective_rpc" else None
        trainer(tmp_path, rollouts(server, sync_dir=str(sync), run_id="run")).fit(
            module, Questions(module.student.processor, 4, 2)
        )
    paths = [Path(body["kwargs"]["weights_path"]) for body in seen]
    assert [path.name for path in paths] == ["probe", "run-0", "run-1", "run-2"]
    assert all(path.is_relative_to(sync) for path in paths)
    assert list(sync.iterdir()) == []


def test_weights_of_killed_runs_are_removed(tmp_path: Path, server_weights: Path):
    left = tmp_path / "sightsound-r1-weights-dead"
    left.mkdir()
    (left / "owner").touch()
    module = Learner(str(server_weights))
    with FakeServer(server_weights) as server:
        trainer(tmp_path, rollouts(server, sync_dir=str(tmp_path))).fit(
            module, Questions(module.student.processor, 2, 2)
        )
    assert not left.exists()


def test_the_run_keeps_its_name_when_it_is_resumed():
    callback = VLLMRollout(["http://127.0.0.1:8000"], run_id="run")
    other = VLLMRollout(["http://127.0.0.1:8000"])
    other.load_state_dict(callback.state_dict())
    assert other.run_id == "run"
