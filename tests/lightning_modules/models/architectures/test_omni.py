"""What only Qwen2.5-Omni has: a talker that is not read, eyes that are not trained, three rows of positions."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, Qwen2_5OmniThinkerForConditionalGeneration

from datamodules.batching.collate import Collator
from datamodules.prompts.questions import PROMPTS
from lightning_modules.models.checkpoints.checkpoint_folder import WeightsError
from lightning_modules.models.frozen_audio_encoder import FrozenAudioEncoder
from lightning_modules.models.student import LoRASettings, Student
from tests.lightning_modules.models.test_collated_batches import QUESTION
from tests.support import tiny_omni
from tests.support.students import make_batch, released_logprobs


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test here is of an Omni."""
    if "weights" in metafunc.fixturenames:
        metafunc.parametrize("weights", ["qwen2_5_omni"], indirect=True, scope="session")


def rewritten(weights: str, target: Path, change) -> str:
    """Copy a checkpoint with other tensors."""
    shutil.copytree(weights, target)
    save_file(change(load_file(target / "model.safetensors")), target / "model.safetensors", metadata={"format": "pt"})
    return str(target)


def test_talker_and_vocoder_are_not_read(weights, tmp_path: Path) -> None:
    speaking = {"talker.model.embed_tokens.weight": torch.zeros(5, 7), "token2wav.dit.bias": torch.zeros(3)}
    whole = Student(rewritten(weights, tmp_path / "whole", lambda tensors: tensors | speaking))
    assert type(whole.base) is Qwen2_5OmniThinkerForConditionalGeneration
    whole.save_pretrained(tmp_path / "best")
    assert (
        load_file(tmp_path / "best" / "model.safetensors").keys()
        == load_file(Path(weights) / "model.safetensors").keys()
    )
    hearing = FrozenAudioEncoder(str(tmp_path / "whole"))
    assert torch.equal(hearing.embedding.weight, whole.base.get_input_embeddings().weight)


def test_a_checkpoint_of_the_thinker_alone_is_the_same_student(weights, processor, tmp_path: Path) -> None:
    student = Student(weights)
    batch = make_batch(processor, [2.0, 0.9], [[4, 7], [2, 5]])
    shutil.copytree(weights, tmp_path / "thinker")
    student.base.save_pretrained(tmp_path / "thinker")
    assert json.loads((tmp_path / "thinker" / "config.json").read_text())["model_type"] == "qwen2_5_omni_thinker"
    with torch.no_grad():
        expected = student.completion_logprobs(batch).logprobs
        alone = Student(str(tmp_path / "thinker")).completion_logprobs(batch).logprobs
    torch.testing.assert_close(alone, expected, atol=1e-6, rtol=0)


def test_an_export_says_that_it_is_an_omni_without_talker(weights, tmp_path: Path) -> None:
    Student(weights, LoRASettings()).save_pretrained(tmp_path / "best")
    config = AutoConfig.from_pretrained(tmp_path / "best")
    assert (config.model_type, config.enable_audio_output) == ("qwen2_5_omni", False)
    assert config.thinker_config.text_config.tie_word_embeddings is False
    assert Student(str(tmp_path / "best")).architecture.name == "Qwen2.5-Omni"


@pytest.mark.parametrize("freeze", [False, True])
def test_everything_that_is_trained_gets_a_gradient(weights, processor, freeze: bool) -> None:
    """Distributed training waits for the gradient of each trained weight, and the eyes never have one."""
    student = Student(weights, freeze_audio_tower=freeze)
    batch = make_batch(processor, [2.0, 0.9], [[4, 7], [2, 5]])
    student.completion_logprobs(batch).logprobs.sum().backward()
    without = [name for name, p in student.trainable_parameters() if p.grad is None]
    assert not without
    trained = {name.removeprefix("model.").split(".")[0] for name, _ in student.trainable_parameters()}
    assert trained == {"model", "lm_head"} | (set() if freeze else {"audio_tower"})


def test_positions_of_audio_and_text_are_plain_in_all_three_rows(weights, processor) -> None:
    student = Student(weights)
    batch = make_batch(processor, [2.0, 0.43], [[1], [1]])
    for ids, length in zip(batch.prompt_ids, batch.prompt_lengths.tolist(), strict=True):
        prompt = ids[None, :length]
        positions, shift = student.base.get_rope_index(prompt, attention_mask=torch.ones_like(prompt))
        assert torch.equal(positions, torch.arange(length).expand(3, 1, -1)) and int(shift) == 0


@pytest.mark.parametrize("window", [25, 100], ids=["several blocks", "one block as released"])
def test_blocks_of_any_length_are_heard_as_released(tmp_path: Path, window: int) -> None:
    student = Student(str(tiny_omni.build(tmp_path, window=window)))
    batch = make_batch(student.processor, [2.0, 0.87, 1.01], [[3], [2], [5]])
    with torch.no_grad():
        expected = released_logprobs(student.base, student.processor, batch)
        torch.testing.assert_close(student.completion_logprobs(batch).logprobs, expected, atol=1e-4, rtol=0)


def test_prompts_are_those_of_the_chat_template(processor) -> None:
    text = Collator(processor, PROMPTS["think"]).text(QUESTION)
    assert text.startswith("<|im_start|>system\n")
    assert "<|im_start|>user\n<|audio_bos|><|AUDIO|><|audio_eos|>What is heard?" in text


def test_tied_embeddings_are_exported_once(weights, processor, tmp_path: Path) -> None:
    """One tensor under one name, in the export and in what a server is sent, and both readers are told so."""
    directory = rewritten(
        weights, tmp_path / "tied", lambda tensors: {n: t for n, t in tensors.items() if n != "thinker.lm_head.weight"}
    )
    config = json.loads((tmp_path / "tied" / "config.json").read_text())
    config["thinker_config"]["tie_word_embeddings"] = True
    (tmp_path / "tied" / "config.json").write_text(json.dumps(config))
    student = Student(directory)
    batch = make_batch(processor, [2.0], [[4, 7]])
    student.save_pretrained(tmp_path / "best")
    assert "thinker.lm_head.weight" not in load_file(tmp_path / "best" / "model.safetensors")
    again = Student(str(tmp_path / "best"))
    assert again.base.config.text_config.tie_word_embeddings is True
    with torch.no_grad():
        expected = released_logprobs(student.base, processor, batch)
        torch.testing.assert_close(again.completion_logprobs(batch).logprobs, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("qwen2", r"it is a qwen2, a student must be one of Audio Flamingo 3, Qwen2-Audio and Qwen2\.5-Omni"),
        ("musicflamingo", r"Audio Flamingo Next cannot be students: vLLM 0\.32 does not serve them"),
    ],
)
def test_another_architecture_is_refused(weights, tmp_path: Path, kind: str, reason: str) -> None:
    shutil.copytree(weights, tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(WeightsError, match=reason):
        Student(str(tmp_path / "other"))
