"""Qwen2.5-Omni's thinker: SFT, GRPO with rollouts in the process, and a real vLLM server."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from benchmarks.fake_server import FakeServer
from callbacks.checkpoints.weights_export import WeightsExport
from callbacks.rollout.local_rollout import LocalRollout
from callbacks.rollout.parity import judge_parity, measure_parity
from callbacks.rollout.rollout_callback import end_token_ids
from callbacks.rollout.vllm_rollout import VLLMRollout
from datamodules.batching.batch import AudioQABatch
from datamodules.batching.collate import Collator, Example
from datamodules.prompts.questions import THINK_SHORT
from inference.vllm.client import VLLMClient, audio_url
from inference.vllm.sampling import SamplingParams
from inference.vllm_server import VLLMServer
from lightning_modules.grpo import GRPOModule
from lightning_modules.models.student import LoRASettings, Student
from lightning_modules.sft import SFTModule
from records.records import Question
from tests.callbacks.rollout.test_vllm_rollout import trainer
from tests.support.agreement import assert_local_rollouts_are_the_servers
from tests.support.questions import Learner, Questions, example
from tests.support.tiny_omni import build


class Logged(lightning.Callback):
    """Keeps what was logged after each training batch, and the batches."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.batches: list[AudioQABatch] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.batches.append(batch)


class ShortAnswers:
    """Rewards completions that are shorter than others."""

    name = "short"

    def __call__(self, completion: str, question: Question, label: str | None) -> float:
        return -len(completion) / 16


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Student:
    """A student whose adapters say something."""
    student = Student(str(build(tmp_path_factory.mktemp("weights") / "base")), LoRASettings()).eval()
    for name, p in student.named_parameters():
        if "lora_B" in name:
            p.data.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    return student


@pytest.fixture(scope="module")
def omni(adapted: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export: all that follows begins with one, adapters folded in."""
    adapted.save_pretrained(directory := tmp_path_factory.mktemp("weights") / "omni")
    return directory


def fit(root: Path, module: lightning.LightningModule, data: Any, *callbacks: lightning.Callback) -> Logged:
    logged = Logged()
    trainer(root, *callbacks, logged).fit(module, data)
    return logged


@pytest.mark.parametrize("lora", [None, LoRASettings()], ids=["full", "lora"])
def test_sft_learns_its_targets(omni: Path, tmp_path: Path, lora: LoRASettings | None) -> None:
    module = SFTModule(str(omni), lr=3e-3 if lora is None else 2e-2, lora=lora)
    examples = [example(number) for number in range(4)]
    told = [Example(e.question, e.waveform, e.label, (f"<answer>{e.label}</answer>",)) for e in examples]
    batch = Collator(module.student.processor, THINK_SHORT)(told)
    logged = fit(tmp_path, module, DataLoader([batch] * 25, batch_size=None))
    assert logged.rows[-1]["train/loss"] < 0.5 * logged.rows[0]["train/loss"]
    seen = [name for name, _ in module.student.trainable_parameters() if "visual" in name]
    assert not seen


@pytest.mark.parametrize("lora", [None, LoRASettings()], ids=["full", "lora"])
def test_grpo_with_rollouts_in_the_process(omni: Path, tmp_path: Path, lora: LoRASettings | None) -> None:
    lightning.seed_everything(0, verbose=False)
    module = GRPOModule(str(omni), lr=1e-3, lora=lora, num_completions=4, reward_functions=[ShortAnswers()])
    before = {name: p.detach().clone() for name, p in module.student.named_parameters()}
    data = Questions(module.student.processor, 4, 2)
    logged = fit(tmp_path, module, data, LocalRollout(max_new_tokens=12), WeightsExport())
    for row in logged.rows:
        assert row["train/sampling_logp_difference"] < 1e-4  # generation, and the packed learner: the same policy
        assert row["train/grad_norm"] > 0
    assert logged.rows[0]["train/reward_std"] > 0
    moved = {name for name, p in module.student.named_parameters() if not torch.equal(p, before[name])}
    assert moved and not any("visual" in name for name in moved)
    assert lora is None or all("lora_" in name for name in moved)
    exported = Student(str(tmp_path / "best"))
    with torch.no_grad():
        expected = module.student.completion_logprobs(logged.batches[-1]).logprobs
        found = exported.completion_logprobs(logged.batches[-1]).logprobs
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def whole_omni(omni: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same thinker in a checkpoint with parts of a talker, as released ones are."""
    directory = tmp_path_factory.mktemp("weights") / "whole"
    shutil.copytree(omni, directory)
    speaking = {"talker.model.embed_tokens.weight": torch.zeros(5, 7), "token2wav.dit.bias": torch.zeros(3)}
    tensors = load_file(directory / "model.safetensors") | speaking
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_a_server_with_a_talker_is_sent_the_thinker(omni: Path, whole_omni: Path, tmp_path: Path) -> None:
    module = Learner(str(omni))
    with FakeServer(whole_omni) as fake:
        rollouts = VLLMRollout([fake.url], max_new_tokens=8, parity_gate=False, wait_seconds=10, retry_seconds=10)
        fit(tmp_path, module, Questions(module.student.processor, 2, 2), rollouts)
        assert len(fake.pushes()) == 2


@pytest.fixture(scope="module")
def server(whole_omni: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    """Started with the model's own sampling, as ``vllm serve`` does: no request inherits it."""
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    own = {"do_sample": True, "top_k": 2, "top_p": 0.1, "temperature": 0.3, "repetition_penalty": 1.8}
    own["eos_token_id"] = list(range(50, 120))  # type: ignore[assignment]
    (whole_omni / "generation_config.json").write_text(json.dumps(own))
    extra = ["--generation-config", "auto"]
    with VLLMServer(whole_omni, max_num_seqs=32, max_model_len=768, log_file=log, extra=extra) as running:
        yield running


@pytest.mark.server
def test_no_request_inherits_the_models_own_sampling(server: VLLMServer, omni: Path) -> None:
    student = Student(str(omni)).eval()
    batch = Collator(student.processor, THINK_SHORT)([example(0)])
    client = VLLMClient(server.url, request_seconds=60)
    stop = end_token_ids(student.processor.tokenizer)
    answer = client.generate(batch.request_ids[0], audio_url(batch.waveforms[0]), SamplingParams(32, 16, 1.0, 0, stop))
    first = {sample.token_ids[0] for sample in answer.samples}
    assert len(first) > 2  # more than its top-k
    inside = {token for sample in answer.samples for token in sample.token_ids[:-1]}
    assert inside & set(range(50, 120))  # its end tokens end nothing
    assert all(sample.finished == (sample.token_ids[-1] in stop) for sample in answer.samples)


@pytest.mark.server
def test_server_and_trainer_are_the_same_policy(server: VLLMServer, omni: Path) -> None:
    student = Student(str(omni)).eval()
    batch = Collator(student.processor, THINK_SHORT)([example(number) for number in range(4)])
    client = VLLMClient(server.url, request_seconds=60)
    for temperature in (1.0, 0.6):
        found = measure_parity(client, student, batch, temperature, seed=3)
        assert found.tokens > 20
        assert found.server_change == pytest.approx(found.trainer_change, abs=1e-3)
        judge_parity(found, client.url, 1e-3, 1e-3)
    assert_local_rollouts_are_the_servers(client, student, batch)


@pytest.mark.server
def test_the_server_serves_an_export(server: VLLMServer, adapted: Student) -> None:
    """The adapters are in it."""
    batch = Collator(adapted.processor, THINK_SHORT)([example(number) for number in range(4)])
    judge_parity(
        measure_parity(VLLMClient(server.url, request_seconds=60), adapted, batch, 1.0), server.url, 1e-3, 1e-3
    )


@pytest.mark.server
@pytest.mark.parametrize("lora", [None, LoRASettings(rank=4)], ids=["full", "lora"])
def test_grpo_on_the_server(server: VLLMServer, omni: Path, tmp_path: Path, lora: LoRASettings | None) -> None:
    """The gate passes, weights are pushed after each step, and the server samples with those that are trained."""
    lightning.seed_everything(1, verbose=False)
    module = GRPOModule(str(omni), lr=1e-2, lora=lora, num_completions=4, reward_functions=[ShortAnswers()])
    data = Questions(module.student.processor, 6, 2)
    logged = fit(tmp_path, module, data, VLLMRollout([server.url], max_new_tokens=16, run_id="run"))
    assert [batch.completions.weight_version for batch in logged.batches] == ["run:0", "run:1", "run:2"]
    assert max(row["train/sampling_logp_difference"] for row in logged.rows) < 1e-3
    with torch.no_grad():  # weights that have moved
        first = Student(str(omni)).completion_logprobs(logged.batches[2]).logprobs
    assert (first - logged.batches[2].completions.logprobs).abs().max() > 0.01
    assert VLLMClient(server.url).weight_version() == "run:3"
