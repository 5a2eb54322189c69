"""The student's scores equal those of the released forward, and its export is the same model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from datamodules.batching.audio_tokens import num_audio_tokens
from lightning_modules.models import token_logprobs as token_logprobs_module
from lightning_modules.models.architectures.qwen2_5_omni import Qwen25Omni
from lightning_modules.models.architectures.qwen2_audio import Qwen2Audio
from lightning_modules.models.checkpoints.checkpoint_folder import WeightsError
from lightning_modules.models.student import LoRASettings, Student
from tests.support.students import ARCHITECTURES, heard_by, make_batch, released_logprobs

SERVED = {
    "Qwen2AudioForConditionalGeneration",
    "Qwen2_5OmniForConditionalGeneration",
    "AudioFlamingo3ForConditionalGeneration",
}
"""What vLLM knows the families by."""

CLIPS = {
    "equal": [2.0, 2.0],
    "unequal": [2.0, 0.87],
    "odd frames": [1.01, 0.43, 1.99],
    "short": [0.31, 0.3],
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test of a student for each family."""
    if "weights" in metafunc.fixturenames:
        metafunc.parametrize("weights", ARCHITECTURES, indirect=True, scope="session")


def lengths_for(clips: list[float]) -> list[list[int]]:
    return [[5 + 3 * b, 1 + b, 9] for b in range(len(clips))]


def perturbed(student: Student) -> Student:
    """Give adapters something to say: their B matrices start at zero."""
    generator = torch.Generator().manual_seed(7)
    for name, p in student.named_parameters():
        if "lora_B" in name:
            p.data.copy_(0.05 * torch.randn(p.shape, generator=generator))
    return student


@pytest.mark.parametrize("clips", CLIPS.values(), ids=CLIPS)
@pytest.mark.parametrize("lora", [None, LoRASettings()], ids=["full", "lora"])
def test_scores_and_gradients_equal_the_released_forward(weights, processor, clips, lora) -> None:
    student = perturbed(Student(weights, lora))
    batch = make_batch(processor, clips, lengths_for(clips))
    weighting = torch.randn(batch.completions.mask.shape, generator=torch.Generator().manual_seed(1))

    def gradients(logprobs: torch.Tensor) -> torch.Tensor:
        student.zero_grad()
        (logprobs * weighting).sum().backward()
        return torch.cat([p.grad.flatten() for _, p in student.trainable_parameters() if p.grad is not None])

    expected = released_logprobs(student.model, processor, batch)
    expected_gradient = gradients(expected)
    scores = student.completion_logprobs(batch)
    gradient = gradients(scores.logprobs)
    torch.testing.assert_close(scores.logprobs, expected, atol=1e-4, rtol=0)
    assert (gradient - expected_gradient).norm() / expected_gradient.norm() < 1e-4
    assert scores.logprobs[~batch.completions.mask].abs().sum() == 0
    assert scores.logprobs.std() > 0.1  # a constant would agree with itself


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_checkpointing_changes_nothing(weights, processor, checkpointing: bool) -> None:
    student = Student(weights, gradient_checkpointing=checkpointing).train()
    batch = make_batch(processor, [2.0, 1.3], [[4, 7], [2, 5]])
    student.completion_logprobs(batch).logprobs.sum().backward()
    norm = torch.stack([p.grad.norm() for _, p in student.trainable_parameters() if p.grad is not None]).norm()
    plain = Student(weights).train()
    plain.completion_logprobs(batch).logprobs.sum().backward()
    expected = torch.stack([p.grad.norm() for _, p in plain.trainable_parameters() if p.grad is not None]).norm()
    torch.testing.assert_close(norm, expected, rtol=1e-5, atol=0)


def test_audio_embeddings_equal_the_released_encoder(weights, processor) -> None:
    student = Student(weights)
    batch = make_batch(processor, [2.0, 1.01, 0.43], [[1], [1], [1]])
    expected: list[torch.Tensor] = []

    def heard(_module: object, _args: object, out: Any) -> None:
        expected.append(getattr(out, "last_hidden_state", out).detach())

    hook = list(student.audio_modules.values())[-1].register_forward_hook(heard)
    released_logprobs(student.model, processor, batch)
    hook.remove()
    got = student.encode_audio(batch)
    counts = num_audio_tokens(batch.feature_lengths).tolist()
    assert got.shape[0] == sum(counts)
    for part, whole, count in zip(got.split(counts), expected, counts, strict=True):
        torch.testing.assert_close(part, whole.reshape(-1, whole.shape[-1])[:count], atol=1e-5, rtol=0)


def test_temperature_divides_the_logits_and_entropy_is_that_of_the_distribution(weights, processor) -> None:
    student = Student(weights)
    batch = make_batch(processor, [1.0], [[1]])
    with torch.no_grad():
        prompt = batch.prompt_ids
        logits = student.model(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            **heard_by(processor, batch.waveforms[0]),
        ).logits[0, -1]
        scores = student.completion_logprobs(batch, temperature=2.0)
    expected = torch.distributions.Categorical(logits=logits / 2)
    token = batch.completions.ids[0, 0, 0]
    assert scores.logprobs.item() == pytest.approx(expected.log_prob(token).item(), abs=1e-4)
    assert scores.entropy.item() == pytest.approx(expected.entropy().item(), abs=1e-4)


def test_chunks_give_the_same_scores_and_gradients(weights, processor, monkeypatch) -> None:
    student = Student(weights)
    batch = make_batch(processor, [2.0, 1.3], [[4, 7], [2, 5]])
    results = []
    for at_once in (1 << 24, 5 * len(processor.tokenizer)):
        monkeypatch.setitem(token_logprobs_module.LOGITS_AT_ONCE, "cpu", at_once)
        student.zero_grad()
        scores = student.completion_logprobs(batch)
        scores.logprobs.sum().backward()
        results.append((scores.logprobs.detach(), scores.entropy, student.base.lm_head.weight.grad.clone()))
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(whole, chunked, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("at_once", [1 << 24, 40], ids=["at once", "in chunks"])
def test_entropies_have_the_gradient_of_the_distribution(monkeypatch, at_once: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 6, generator=generator, requires_grad=True) for n in (7, 20))
    targets, pull = torch.randint(20, (7,), generator=generator), torch.randn(2, 7, generator=generator)
    log_p = torch.log_softmax(hidden @ weight.T / 0.7, -1)
    expected = pull[0] @ log_p.gather(-1, targets[:, None])[:, 0] - pull[1] @ (log_p.exp() * log_p).sum(-1)
    monkeypatch.setitem(token_logprobs_module.LOGITS_AT_ONCE, "cpu", at_once)
    scores, entropies = token_logprobs_module.token_logprobs(hidden, targets, weight, 0.7, entropy_gradient=True)
    found = pull[0] @ scores + pull[1] @ entropies
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    for of in (hidden, weight):
        ours, theirs = (torch.autograd.grad(x, of, retain_graph=True)[0] for x in (found, expected))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_prompt_is_heard(weights, processor) -> None:
    student = Student(weights)
    batch = make_batch(processor, [2.0], [[6]])
    with torch.no_grad():
        heard = student.completion_logprobs(batch).logprobs
        batch.features = torch.zeros_like(batch.features)
        deaf = student.completion_logprobs(batch).logprobs
    assert (heard - deaf).abs().max() > 1e-3


def test_wrong_placeholders_are_refused(weights, processor) -> None:
    batch = make_batch(processor, [2.0], [[6]])
    batch.feature_lengths = batch.feature_lengths - 20
    with pytest.raises(ValueError, match="audio placeholders"):
        Student(weights).completion_logprobs(batch)


@pytest.mark.parametrize("lora", [None, LoRASettings(dropout=0.0)], ids=["full", "lora"])
def test_export_is_the_same_model_for_from_pretrained(weights, processor, tmp_path: Path, lora) -> None:
    student = perturbed(Student(weights, lora))
    batch = make_batch(processor, [2.0, 0.9], [[4, 7], [2, 5]])
    with torch.no_grad():
        before = student.completion_logprobs(batch).logprobs
        student.save_pretrained(tmp_path / "best")
        again = Student(str(tmp_path / "best"))
        torch.testing.assert_close(again.completion_logprobs(batch).logprobs, before, atol=1e-4, rtol=0)
        plain = student.architecture.model_class.from_pretrained(tmp_path / "best")
        torch.testing.assert_close(released_logprobs(plain, processor, batch), before, atol=1e-4, rtol=0)
    names = set(load_file(tmp_path / "best" / "model.safetensors"))
    assert names == set(load_file(Path(weights) / "model.safetensors"))  # the Hub's names, all of them
    (served,) = json.loads((tmp_path / "best" / "config.json").read_text())["architectures"]
    assert served in SERVED
    if lora is not None:
        with torch.no_grad():
            base = student.completion_logprobs(batch, reference=True).logprobs
        assert (base - before).abs().max() > 1e-3
        torch.testing.assert_close(base, Student(weights).completion_logprobs(batch).logprobs, atol=1e-5, rtol=0)


def test_export_replaces_what_was_there(weights, tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "old.safetensors").write_text("stale")
    Student(weights).save_pretrained(tmp_path / "best")
    assert not (tmp_path / "best" / "old.safetensors").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def named(weights: str, ending: str) -> str:
    """Return the name on the Hub that ends so."""
    (name,) = (name for name in load_file(Path(weights) / "model.safetensors") if name.endswith(ending))
    return name


def damaged(weights: str, target: Path, change) -> str:
    import shutil

    shutil.copytree(weights, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return str(target)


def test_missing_weights_are_refused(weights, tmp_path: Path) -> None:
    name = named(weights, "audio_tower.conv1.weight")
    directory = damaged(weights, tmp_path / "x", lambda t: t.pop(name))
    with pytest.raises(WeightsError, match=r"1 missing keys \((model.)?audio_tower.conv1.weight\)"):
        Student(directory)


def test_unknown_weights_are_refused(weights, tmp_path: Path) -> None:
    extra = named(weights, "embed_tokens.weight").replace("embed_tokens", "extra")
    directory = damaged(weights, tmp_path / "x", lambda t: t.update({extra: torch.zeros(1)}))
    with pytest.raises(WeightsError, match="1 unexpected keys"):
        Student(directory)


def test_wrong_shapes_are_refused(weights, tmp_path: Path) -> None:
    name = named(weights, "audio_tower.conv1.bias")
    directory = damaged(weights, tmp_path / "x", lambda t: t.update({name: torch.zeros(3)}))
    with pytest.raises(WeightsError):
        Student(directory)


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no processor could be loaded"):
        Student(str(tmp_path))


def test_unmatched_lora_modules_are_refused(weights) -> None:
    with pytest.raises(WeightsError, match="matches no module"):
        Student(weights, LoRASettings(target_modules="nothing_like_this"))


def test_lora_trains_only_adapters_of_the_language_model(weights) -> None:
    student = Student(weights, LoRASettings())
    names = [name for name, _ in student.trainable_parameters()]
    text = student.architecture.text_config(student.base.config)
    assert len(names) == text.num_hidden_layers * 7 * 2  # of each linear layer, down and up
    assert all("lora_" in name and "audio_tower" not in name and "visual" not in name for name in names)
    assert student.audio_tower_frozen


def test_unknown_prefix_has_no_hub_name() -> None:
    with pytest.raises(KeyError, match="no name on the Hub"):
        Qwen2Audio().hub_weights("model.vision_tower.conv.weight", torch.zeros(1))
    with pytest.raises(KeyError, match="no name on the Hub"):
        Qwen25Omni().hub_weights("talker.model.norm.weight", torch.zeros(1))


def test_questions_in_one_row_do_not_see_each_other(weights, processor) -> None:
    """Each question alone gives the same scores, and no gradient crosses over."""
    student = Student(weights, LoRASettings())
    batch = make_batch(processor, [2.0, 0.87, 1.4], [[5, 9], [1, 4], [12, 2]])
    whole = student.completion_logprobs(batch).logprobs
    for row in range(3):
        alone = student.completion_logprobs(batch[row : row + 1]).logprobs
        torch.testing.assert_close(whole[row : row + 1], alone, atol=1e-4, rtol=0)
    counts = num_audio_tokens(batch.feature_lengths).tolist()
    audio = student.encode_audio(batch).requires_grad_()
    scores = student.completion_logprobs(batch, audio=audio).logprobs
    (heard,) = torch.autograd.grad(scores[1].sum(), audio)
    first, second, third = heard.split(counts)
    assert first.abs().sum() == 0 and third.abs().sum() == 0 and second.abs().sum() > 0


def test_questions_with_fewer_traces_have_empty_ones(weights, processor) -> None:
    student = Student(weights)
    batch = make_batch(processor, [2.0, 0.87], [[5, 9, 3], [4, 0, 0]])
    full = student.completion_logprobs(batch).logprobs
    alone = make_batch(processor, [2.0, 0.87], [[5, 9, 3], [4, 0, 0]])[1:2]
    alone.completions.ids = alone.completions.ids[:, :1]
    alone.completions.mask, alone.completions.lengths = alone.completions.mask[:, :1], alone.completions.lengths[:, :1]
    torch.testing.assert_close(full[1, :1], student.completion_logprobs(alone).logprobs[0], atol=1e-4, rtol=0)
    assert full[1, 1:].abs().sum() == 0
    full.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)


def test_an_adapter_on_the_head_counts(weights, processor) -> None:
    student = perturbed(Student(weights, LoRASettings(target_modules=["lm_head"])))
    batch = make_batch(processor, [2.0, 0.87], [[5, 9], [1, 4]])
    expected = released_logprobs(student.model, processor, batch)
    scores = student.completion_logprobs(batch).logprobs
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)
    reference = student.completion_logprobs(batch, reference=True).logprobs
    assert (reference - scores).abs().max() > 1e-3
    scores.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for _, p in student.trainable_parameters())
