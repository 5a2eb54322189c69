"""The learner waits for no device: it runs on tensors that have a shape and a type, and nothing to read.

What reads a value in the middle of a step (``item``, ``nonzero``, a boolean index) makes a GPU and the program wait for
each other, and raises here.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

from datamodules.batching.batch import AudioQABatch
from lightning_modules.grpo import GRPOModule
from lightning_modules.models.student import LoRASettings, Student
from lightning_modules.objectives.importance import TokenTruncation
from lightning_modules.objectives.losses import grpo_loss, sft_loss
from lightning_modules.sft import SFTModule
from tests.support.students import ARCHITECTURES, make_batch


@pytest.fixture
def unread() -> FakeTensorMode:
    return FakeTensorMode(allow_non_fake_inputs=True)


@pytest.fixture
def batch(processor) -> AudioQABatch:
    """Clips, prompts and completions of unequal lengths, one of them empty."""
    return make_batch(processor, [1.01, 0.43, 1.99], [[5, 1, 9], [8, 2, 9], [11, 0, 3]])


def without_values(student: Student, mode: FakeTensorMode, device: str = "cpu") -> Student:
    def emptied(value: Tensor) -> Tensor:
        with mode:
            return torch.empty_like(value, device=device)

    for module in student.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = nn.Parameter(emptied(value), value.requires_grad)
        for name, value in module._buffers.items():
            module._buffers[name] = None if value is None else emptied(value)
    return student


def sft(student: Student, batch: AudioQABatch) -> Tensor:
    return sft_loss(student.completion_logprobs(batch).logprobs, batch.completions.mask)


def grpo(student: Student, batch: AudioQABatch) -> Tensor:
    """What GRPOModule does with a micro-batch of off-policy rollouts."""
    micro = batch[1:3]
    audio = student.encode_audio(micro) if student.audio_tower_frozen else None
    with torch.no_grad():
        reference = student.completion_logprobs(micro, 0.9, student.lora is not None, audio, entropy=False).logprobs
    scores = student.completion_logprobs(micro, 0.9, audio=audio).logprobs
    mask = micro.completions.mask
    importance, _ = TokenTruncation()(scores, micro.completions.logprobs, mask)
    advantages = torch.ones(mask.shape[:2], device=mask.device)
    return grpo_loss(scores, scores.detach(), reference, advantages, mask, importance=importance).loss


@pytest.mark.parametrize("objective", [sft, grpo])
@pytest.mark.parametrize("lora", [None, LoRASettings()], ids=["full", "lora"])
@pytest.mark.parametrize("weights", ARCHITECTURES, indirect=True, scope="session")
def test_steps_read_nothing_from_the_device(weights, batch, unread, lora, objective) -> None:
    student = without_values(Student(weights, lora, gradient_checkpointing=objective is grpo), unread)
    with unread:
        loss = objective(student, batch.to("cpu"))
        loss.backward()
        with pytest.raises(DataDependentOutputException):
            float(loss.detach())  # so the step would have raised, had it read anything
    assert all(p.grad is not None and p.grad.shape == p.shape for _, p in student.trainable_parameters())


@pytest.mark.parametrize("weights", ARCHITECTURES, indirect=True, scope="session")
def test_nothing_of_a_step_is_left_in_main_memory(weights, batch, unread) -> None:
    """On a GPU without values, which refuses tensors from elsewhere; a backward pass would want a real one."""
    student = without_values(Student(weights, LoRASettings()), unread, "cuda")
    with unread:
        moved = batch.to("cuda")
        loss = grpo(student, moved)
        embedded = student.embed(moved.prompt_ids, moved, student.encode_audio(moved))
    assert loss.device.type == embedded.device.type == "cuda"


@pytest.mark.parametrize("make", [SFTModule, GRPOModule])
def test_a_training_step_reads_its_metrics_at_once_and_nothing_else(weights, batch, unread, monkeypatch, make) -> None:
    """Two micro-batches, and for GRPO two optimizer steps; the second batch of SFT that gathers gradients."""
    reads: list[int] = []
    logged: dict[str, object] = {}
    module = make(weights, micro_batch_size=2, **({"num_iterations": 2} if make is GRPOModule else {}))
    for student in (module.student, getattr(module, "reference", None)):
        if student is not None:
            without_values(student, unread)

    def fetched(_: Any, metrics: dict[str, Tensor], norms: list[Tensor], first_step: int) -> dict[str, float]:
        reads.append(len(norms))
        assert {t.shape for t in (*metrics.values(), *norms)} == {()}
        return dict.fromkeys(metrics, 0.0)

    optimizer = SimpleNamespace(
        step=lambda: module.on_before_optimizer_step(optimizer), zero_grad=lambda: None, param_groups=[{"lr": 1e-6}]
    )
    strategy = SimpleNamespace(
        reduce=lambda tensor, reduce_op: tensor, backward=lambda loss, _: loss.backward(), root_device="cpu"
    )
    trainer = SimpleNamespace(
        strategy=strategy, accumulate_grad_batches=2, precision_plugin=SimpleNamespace(scaler=None)
    )
    monkeypatch.setattr(make, "trainer", trainer)
    monkeypatch.setattr(make, "global_step", 0)
    monkeypatch.setattr(make, "optimizers", lambda self, use_pl_optimizer=True: optimizer)
    monkeypatch.setattr(
        make, "lr_schedulers", lambda self: SimpleNamespace(get_last_lr=lambda: [1e-6], step=lambda: None)
    )
    monkeypatch.setattr(make, "manual_backward", lambda self, loss: loss.backward())
    monkeypatch.setattr(make, "log_dict", lambda self, metrics, **_: logged.update(metrics))
    monkeypatch.setattr(make, "log", lambda self, name, value, **_: logged.update({name: value}))
    monkeypatch.setattr(GRPOModule, "_fetch", fetched)
    monkeypatch.setattr(GRPOModule, "_rollout_metrics", lambda *_: {"train/reward": 0.0})  # of tensors in main memory
    with unread:
        for number in range(2):
            loss = module.training_step(batch, number)
            if loss is not None:
                loss.backward()
    assert reads == ([2, 2] if make is GRPOModule else [])
    assert {"train/loss", "train/entropy", "lr"} < set(logged)
    assert all(p.grad is not None for _, p in module.student.trainable_parameters())


def released_model() -> Qwen2AudioForConditionalGeneration:
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder", "d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20,
            "encoder_ffn_dim": 5120, "num_mel_bins": 128, "max_source_positions": 1500,
        },
        text_config={
            "model_type": "qwen2", "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 156_032,
        },
    )  # fmt: skip
    return Qwen2AudioForConditionalGeneration(config)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoRASettings()], ids=["full", "lora"])
def test_the_released_size_takes_a_step(processor, batch, unread, lora) -> None:
    with unread:
        model = released_model()
    assert 8.39e9 < sum(p.numel() for p in model.parameters()) < 8.41e9
    model.config.audio_token_id = processor.tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    student = Student.of_model(model, processor, lora, gradient_checkpointing=True)
    with unread:
        sft(student, batch).backward()
    assert all(p.grad is not None for _, p in student.trainable_parameters())
