"""Families beside Qwen2-Audio: SFT, GRPO with rollouts in the process, and a real vLLM server."""

import json
import shutil
from collections.abc import Callable, Iterator
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
from tests.support import tiny_flamingo, tiny_omni
from tests.support.agreement import assert_local_rollouts_are_the_servers
from tests.support.questions import Learner, Questions, example
from tests.support.students import clip

BUILD: dict[str, Callable[[Path], Path]] = {
    "qwen2_5_omni": tiny_omni.build,
    "audio_flamingo_3": lambda place: tiny_flamingo.build(place, seconds=30, windows=2),
}
"""vLLM knows Audio Flamingo's windows as they are released; a clip of 33 s has two."""

ROOM = {"qwen2_5_omni": 768, "audio_flamingo_3": 2048}
"""Tokens that a server has room for."""

LONG = pytest.param("audio_flamingo_3", marks=pytest.mark.slow)
"""Hears clips of several windows."""


@pytest.fixture(scope="module", params=["qwen2_5_omni", LONG])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


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
def adapted(family: str, tmp_path_factory: pytest.TempPathFactory) -> Student:
    """A student whose adapters say something."""
    student = Student(str(BUILD[family](tmp_path_factory.mktemp("weights") / "base")), LoRASettings()).eval()
    for name, p in student.named_parameters():
        if "lora_B" in name:
            p.data.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    return student


@pytest.fixture(scope="module")
def initial(adapted: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export: all that follows begins with one, adapters folded in."""
    adapted.save_pretrained(directory := tmp_path_factory.mktemp("weights") / "initial")
    return directory


def fit(root: Path, module: lightning.LightningModule, data: Any, *callbacks: lightning.Callback) -> Logged:
    logged = Logged()
    trainer(root, *callbacks, logged).fit(module, data)
    return logged


@pytest.mark.parametrize("lora", [None, LoRASettings()], ids=["full", "lora"])
def test_sft_learns_its_targets(initial: Path, tmp_path: Path, lora: LoRASettings | None) -> None:
    module = SFTModule(str(initial), lr=3e-3 if lora is None else 2e-2, lora=lora)
    examples = [example(number) for number in range(4)]
    told = [Example(e.question, e.waveform, e.label, (f"<answer>{e.label}</answer>",)) for e in examples]
    batch = Collator(module.student.processor, THINK_SHORT)(told)
    logged = fit(tmp_path, module, DataLoader([batch] * 25, batch_size=None))
    assert logged.rows[-1]["train/loss"] < 0.5 * logged.rows[0]["train/loss"]
    seen = [name for name, _ in module.student.trainable_parameters() if "visual" in name]
    assert not seen


@pytest.mark.parametrize("lora", [None, LoRASettings()], ids=["full", "lora"])
def test_grpo_with_rollouts_in_the_process(initial: Path, tmp_path: Path, lora: LoRASettings | None) -> None:
    lightning.seed_everything(0, verbose=False)
    module = GRPOModule(str(initial), lr=1e-3, lora=lora, num_completions=4, reward_functions=[ShortAnswers()])
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
def whole(family: str, initial: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in a checkpoint with parts of a talker, as released ones of Omni are."""
    directory = tmp_path_factory.mktemp("weights") / "whole"
    shutil.copytree(initial, directory)
    if family != "qwen2_5_omni":
        return directory
    speaking = {"talker.model.embed_tokens.weight": torch.zeros(5, 7), "token2wav.dit.bias": torch.zeros(3)}
    tensors = load_file(directory / "model.safetensors") | speaking
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.mark.parametrize("family", ["qwen2_5_omni"], indirect=True, scope="module")
def test_a_server_with_a_talker_is_sent_the_thinker(initial: Path, whole: Path, tmp_path: Path) -> None:
    module = Learner(str(initial))
    with FakeServer(whole) as fake:
        rollouts = VLLMRollout([fake.url], max_new_tokens=8, parity_gate=False, wait_seconds=10, retry_seconds=10)
        fit(tmp_path, module, Questions(module.student.processor, 2, 2), rollouts)
        assert len(fake.pushes()) == 2


@pytest.fixture(scope="module")
def server(family: str, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    """Started with the model's own sampling, as ``vllm serve`` does: no request inherits it."""
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    own = {"do_sample": True, "top_k": 2, "top_p": 0.1, "temperature": 0.3, "repetition_penalty": 1.8}
    own["eos_token_id"] = list(range(50, 120))  # type: ignore[assignment]
    (whole / "generation_config.json").write_text(json.dumps(own))
    extra = ["--generation-config", "auto"]
    with VLLMServer(whole, max_num_seqs=32, max_model_len=ROOM[family], log_file=log, extra=extra) as running:
        yield running


@pytest.mark.server
def test_no_request_inherits_the_models_own_sampling(server: VLLMServer, initial: Path) -> None:
    student = Student(str(initial)).eval()
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
def test_server_and_trainer_are_the_same_policy(server: VLLMServer, initial: Path) -> None:
    student = Student(str(initial)).eval()
    batch = Collator(student.processor, THINK_SHORT)([example(number) for number in range(4)])
    client = VLLMClient(server.url, request_seconds=60)
    for temperature in (1.0, 0.6):
        found = measure_parity(client, student, batch, temperature, seed=3)
        assert found.tokens > 20
        assert found.server_change == pytest.approx(found.trainer_change, abs=1e-3)
        judge_parity(found, client.url, 1e-3, 1e-3)
    assert_local_rollouts_are_the_servers(client, student, batch)


@pytest.mark.server
@pytest.mark.parametrize("family", [LONG], indirect=True, scope="module")
def test_clips_of_several_windows_are_heard_alike(server: VLLMServer, initial: Path) -> None:
    student = Student(str(initial)).eval()
    sounds = [clip(0.3, 1), clip(33.0, 2), clip(30.005, 3)]
    batch = Collator(student.processor, THINK_SHORT)([example(n, sound) for n, sound in enumerate(sounds)])
    for first in range(2):
        found = measure_parity(VLLMClient(server.url, request_seconds=60), student, batch[first : first + 2], 1.0)
        judge_parity(found, server.url, 1e-3, 1e-3)


@pytest.mark.server
def test_the_server_serves_an_export(server: VLLMServer, adapted: Student) -> None:
    """The adapters are in it."""
    batch = Collator(adapted.processor, THINK_SHORT)([example(number) for number in range(4)])
    judge_parity(
        measure_parity(VLLMClient(server.url, request_seconds=60), adapted, batch, 1.0), server.url, 1e-3, 1e-3
    )


@pytest.mark.server
@pytest.mark.parametrize("lora", [None, LoRASettings(rank=4)], ids=["full", "lora"])
def test_grpo_on_the_server(server: VLLMServer, initial: Path, tmp_path: Path, lora: LoRASettings | None) -> None:
    """The gate passes, weights are pushed after each step, and the server samples with those that are trained."""
    lightning.seed_everything(1, verbose=False)
    module = GRPOModule(str(initial), lr=1e-2, lora=lora, num_completions=4, reward_functions=[ShortAnswers()])
    data = Questions(module.student.processor, 6, 2)
    logged = fit(tmp_path, module, data, VLLMRollout([server.url], max_new_tokens=16, run_id="run"))
    assert [batch.completions.weight_version for batch in logged.batches] == ["run:0", "run:1", "run:2"]
    assert max(row["train/sampling_logp_difference"] for row in logged.rows) < 1e-3
    with torch.no_grad():  # weights that have moved
        first = Student(str(initial)).completion_logprobs(logged.batches[2]).logprobs
    assert (first - logged.batches[2].completions.logprobs).abs().max() > 0.01
    assert VLLMClient(server.url).weight_version() == "run:3"
