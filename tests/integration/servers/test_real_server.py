"""Against a real vLLM server."""

import functools
import os
import signal
import threading
import time
from pathlib import Path

import lightning
import numpy as np
import psutil
import pytest
import soundfile
import torch

from callbacks.rollout import parity, vllm_rollout
from callbacks.rollout.local_rollout import LocalRollout
from callbacks.rollout.parity import ParityError, judge_parity, measure_parity
from callbacks.rollout.rollout_callback import end_token_ids
from callbacks.rollout.vllm_rollout import VLLMRollout
from datamodules.batching.batch import AudioQABatch
from datamodules.batching.collate import Collator
from datamodules.media.audio import load_waveform
from datamodules.prompts.questions import THINK_SHORT
from inference.server_pool import ServerPool
from inference.vllm.client import ServerRefused, VLLMClient, audio_url
from inference.vllm.sampling import SamplingParams
from inference.vllm.server_info import ServerInfo, ask
from inference.vllm_server import VLLMServer
from inference.weight_transfer.weight_directory import WeightDirectory
from inference.weight_transfer.weight_sync import WeightSyncError, can_read, push
from lightning_modules.audio_qa import AudioQAModule
from lightning_modules.models.student import LoRASettings, Student
from lightning_modules.served_qa import ServedQAModule
from tests.callbacks.rollout.test_vllm_rollout import trainer
from tests.support.agreement import assert_local_rollouts_are_the_servers
from tests.support.dataset_files import write_mp4
from tests.support.questions import Learner, Questions, clip, example
from tests.support.tiny_model import build

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def student(server_weights: Path) -> Student:
    return Student(str(server_weights)).eval()


@pytest.fixture(scope="module")
def batch(student: Student) -> AudioQABatch:
    return Collator(student.processor, THINK_SHORT)([example(number) for number in range(4)])


@pytest.fixture
def client(vllm_server: VLLMServer) -> VLLMClient:
    return VLLMClient(vllm_server.url, request_seconds=60)


class Measured(Learner):
    """Notes how far the server's log-probabilities are from those of the weights that are trained."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.gaps: list[float] = []

    def training_step(self, batch: AudioQABatch, batch_idx: int) -> torch.Tensor:
        with torch.no_grad():
            scores = self.student.completion_logprobs(batch, self.temperature).logprobs
        self.gaps.append(float((scores - batch.completions.logprobs)[batch.completions.mask].abs().max()))
        return super().training_step(batch, batch_idx)


def fit(tmp_path: Path, module: Learner, count: int, *callbacks: lightning.Callback, **settings) -> lightning.Trainer:
    run = trainer(tmp_path, *callbacks, num_sanity_val_steps=0, **settings)
    run.fit(module, Questions(module.student.processor, count, 2))
    return run


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp4"])
def test_log_probabilities_are_the_trainers(client: VLLMClient, student: Student, tmp_path: Path, suffix: str):
    rate = 44_100
    time = np.arange(round(1.3 * rate)) / rate
    sound = (0.4 * np.sin(2 * np.pi * 523.0 * time * (1 + 0.1 * time))).astype(np.float32)
    file = tmp_path / f"clip.{suffix}"
    if suffix == "mp4":
        write_mp4(file, sound, rate)
    else:
        soundfile.write(file, sound, rate)
    questions = Collator(student.processor, THINK_SHORT)([example(0, load_waveform(file)), example(1)])
    for temperature in (1.0, 0.6):
        found = measure_parity(client, student, questions, temperature, seed=3)
        assert found.largest_gap < 1e-3 and found.silent_gap < 1e-3
        assert found.tokens > 20
        assert found.server_change == pytest.approx(found.trainer_change, abs=1e-3)
        judge_parity(found, client.url, 1e-3, 1e-3)


def test_an_idle_server_leaves_the_cores_to_the_learner(client: VLLMClient, vllm_server: VLLMServer, batch):
    client.generate(batch.request_ids[0], audio_url(batch.waveforms[0]), SamplingParams(1, 8, 1.0, 0, ()))
    assert vllm_server.process is not None
    leader = psutil.Process(vllm_server.process.pid)
    processes = [leader, *leader.children(recursive=True)]

    def used() -> float:
        return sum(times.user + times.system for times in (process.cpu_times() for process in processes))

    before = used()
    time.sleep(1.0)
    assert used() - before < 0.3


def test_gate_refuses_other_weights(client: VLLMClient, batch: AudioQABatch, tmp_path: Path):
    other = Student(str(build(tmp_path / "other", seed=1, seconds=2))).eval()
    with pytest.raises(
        ParityError, match=r"parity of log-probabilities failed.*disagree on silence too.*other weights"
    ):
        judge_parity(measure_parity(client, other, batch, 1.0), client.url, 1e-3, 1e-3)


def test_gate_refuses_a_server_that_decodes_otherwise(client, student, batch, monkeypatch):
    monkeypatch.setattr(parity, "audio_url", lambda waveform: audio_url(waveform * 32768))
    with pytest.raises(ParityError, match=r"parity of log-probabilities failed.*both agree on silence.*soundfile"):
        judge_parity(measure_parity(client, student, batch, 1.0), client.url, 1e-3, 1e-3)


def test_gate_refuses_a_server_that_ignores_the_audio(client, student, batch, monkeypatch):
    monkeypatch.setattr(parity, "audio_url", lambda waveform: audio_url(np.zeros_like(waveform)))
    with pytest.raises(ParityError, match=r"parity of hearing failed.*ignores the audio"):
        judge_parity(measure_parity(client, student, batch, 1.0), client.url, 1e-3, 1e-3)


def test_gate_refuses_a_server_with_other_prompts(client, student, batch):
    longer = Collator(student.processor, THINK_SHORT)([example(number, clip(1.9)) for number in range(4)])
    longer.waveforms = batch.waveforms
    with pytest.raises(ParityError, match=r"parity of prompts failed: for test/\d the trainer has \d+ prompt tokens"):
        measure_parity(client, student, longer, 1.0)


def test_local_rollouts_are_the_servers(client: VLLMClient, student: Student, batch: AudioQABatch):
    assert_local_rollouts_are_the_servers(client, student, batch)


def test_completions_repeat_with_their_seed(client: VLLMClient, student: Student, batch: AudioQABatch):
    stop = end_token_ids(student.processor.tokenizer)

    def draw(seed: int) -> list[list[int]]:
        sampling = SamplingParams(3, 16, 1.0, seed, stop)
        answer = client.generate(batch.request_ids[0], audio_url(batch.waveforms[0]), sampling)
        return [sample.token_ids for sample in answer.samples]

    first = draw(5)
    assert draw(5) == first
    assert draw(6)[:2] == first[1:]  # completion i has seed + i
    assert len({tuple(ids) for ids in first}) == 3


@pytest.mark.parametrize("lora", [None, LoRASettings(rank=4)])
def test_weights_follow_the_trainer(vllm_server: VLLMServer, server_weights: Path, tmp_path: Path, lora):
    lightning.seed_everything(1, verbose=False)
    module = Measured(str(server_weights), num_completions=4, lora=lora)
    rollouts = VLLMRollout([vllm_server.url], max_new_tokens=16, run_id="run")
    trainer = fit(tmp_path, module, 6, rollouts, limit_val_batches=1)
    assert [one.completions.weight_version for one in module.train_batches] == ["run:0", "run:1", "run:2"]
    assert max(module.gaps) < 1e-3  # of weights that have moved:
    moved = Student(str(server_weights)).completion_logprobs(module.train_batches[2]).logprobs
    assert (moved - module.train_batches[2].completions.logprobs).abs().max() > 0.01
    assert VLLMClient(vllm_server.url).weight_version() == "run:3"
    assert module.val_batches[0].completions.weight_version == "run:3"
    assert trainer.callback_metrics["rollout/tokens_per_s"] > 0
    assert {"time/rollout", "time/sync"} <= trainer.callback_metrics.keys()


def test_a_clip_that_the_server_knows_is_heard_with_the_new_weights(client, student, batch, server_weights, tmp_path):
    """Keys and values, processed clips and their embeddings that the server keeps are those of the old weights."""
    other = Student(str(build(tmp_path / "other", seed=1, seconds=2))).eval()
    for _ in range(2):  # the second time from what it keeps
        assert measure_parity(client, student, batch, 1.0).largest_gap < 1e-3
    push(client, tmp_path / "other", "other")
    found = measure_parity(client, other, batch, 1.0)
    assert found.largest_gap < 1e-3 and found.silent_gap < 1e-3
    assert found.server_change == pytest.approx(found.trainer_change, abs=1e-3)
    push(client, server_weights, "back")
    assert measure_parity(client, student, batch, 1.0).largest_gap < 1e-3


def test_a_failed_load_is_repaired_before_the_server_goes_on(
    client: VLLMClient, student, batch, server_weights, tmp_path
):
    broken = tmp_path / "broken"
    broken.mkdir()
    data = (server_weights / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightSyncError, match=r"failed .*3 times, although the server itself is well"):
        push(client, broken, "broken")
    assert client.is_paused() and client.healthy()
    push(client, server_weights, "repaired")
    assert client.weight_version() == "repaired"
    assert measure_parity(client, student, batch, 1.0).largest_gap < 1e-3


def test_a_server_says_which_folders_it_can_read(client: VLLMClient, student, batch, server_weights, tmp_path):
    directory = WeightDirectory.make(tmp_path)
    directory.write_probe()
    assert can_read(client, directory.probe) is None
    assert can_read(client, tmp_path / "elsewhere") is not None
    assert not client.is_paused()
    directory.remove()
    assert measure_parity(client, student, batch, 1.0).largest_gap < 1e-3  # its weights are what they were


def test_the_server_loads_a_student_by_itself(vllm_server: VLLMServer, tmp_path: Path):
    """Its answers are those of the student when that is loaded here and generates by itself."""
    weights = build(tmp_path / "other", seed=1, seconds=2)
    said = []
    for module, rollouts in (
        (ServedQAModule(str(weights)), VLLMRollout([vllm_server.url], max_new_tokens=12)),
        (AudioQAModule(str(weights)), LocalRollout(max_new_tokens=12)),
    ):
        data = Questions(module.student.processor, 4, 4)
        trainer(tmp_path, rollouts).test(module, data, verbose=False)
        said.append([prediction.completion for prediction in module.predictions])
    assert said[0] == said[1] and len(set(said[0])) > 1


def test_a_paused_server_is_woken(vllm_server: VLLMServer, server_weights: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(vllm_rollout, "ServerPool", functools.partial(ServerPool, watch_seconds=1.0))

    class Pause(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            VLLMClient(vllm_server.url).pause()

    module = Measured(str(server_weights))
    fit(tmp_path, module, 2, VLLMRollout([vllm_server.url], max_new_tokens=8, parity_gate=False), Pause())
    # the gate is off because it asks one request after the other, each until its own time limit
    assert len(module.train_batches) == 1 and max(module.gaps) < 1e-3


def test_what_shows_of_how_it_was_started(vllm_server: VLLMServer, server_weights: Path, client: VLLMClient):
    begun = time.monotonic()
    assert ask(client, 8) == ServerInfo(str(server_weights), 768, 32, "float32", True)
    assert time.monotonic() - begun < 5


def test_refuses_what_the_server_refuses(client: VLLMClient, student: Student, batch: AudioQABatch):
    stop = end_token_ids(student.processor.tokenizer)
    with pytest.raises(ServerRefused, match="refused"):
        client.generate(batch.request_ids[0] * 20, audio_url(batch.waveforms[0]), SamplingParams(1, 700, 1.0, 0, stop))
    with pytest.raises(ServerRefused, match="max_num_seqs"):
        client.generate(batch.request_ids[0], audio_url(batch.waveforms[0]), SamplingParams(99, 4, 1.0, 0, stop))


def test_a_killed_engine_loses_no_batch(vllm_server: VLLMServer, server_weights: Path, tmp_path: Path):
    """The engine is killed under running requests; the server is started again, and the run goes on."""
    restarted = []

    class Crash(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 1:
                threading.Thread(target=self.crash).start()

        def crash(self) -> None:
            time.sleep(0.1)
            for child in psutil.Process(vllm_server.process.pid).children(recursive=True):
                if "EngineCore" in " ".join(child.cmdline()):
                    os.kill(child.pid, signal.SIGKILL)
            vllm_server.process.wait(60)  # the API process notices and ends
            vllm_server.stop()
            vllm_server.start()
            restarted.append(True)

    module = Measured(str(server_weights), num_completions=8)
    rollouts = VLLMRollout(
        [vllm_server.url], max_new_tokens=400, run_id="run", retry_seconds=240, parity_tolerance=1e-3
    )
    try:
        fit(tmp_path, module, 6, Crash(), rollouts)
    finally:
        vllm_server.start() if vllm_server.process is None else None
    assert restarted
    assert [one.completions.weight_version for one in module.train_batches] == ["run:0", "run:1", "run:2"]
    assert [question.id for one in module.train_batches for question in one.questions] == [
        f"test/{i}" for i in range(6)
    ]
    assert max(module.gaps) < 1e-3
    assert VLLMClient(vllm_server.url).weight_version() == "run:3"
