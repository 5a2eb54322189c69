"""Adapters are where they are trained and nowhere else, an export is the adapted model, and what is trained is said."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_modules.models.adapters import LoRASettings
from lightning_modules.models.checkpoints.checkpoint_folder import WeightsError
from lightning_modules.models.student import Student
from lightning_modules.models.trained_parts import describe_trained_parts, trained_parts
from tests.support.students import ARCHITECTURES, make_batch, released_logprobs

BOTH = pytest.mark.parametrize("weights", ARCHITECTURES, indirect=True, scope="session")
OMNI = pytest.mark.parametrize("weights", ["qwen2_5_omni"], indirect=True, scope="session")


@BOTH
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], r".*\.(q_proj|v_proj)"], ids=["list", "expression"])
def test_a_frozen_tower_gets_no_adapters(weights: str, targets: list[str] | str) -> None:
    settings = LoRASettings(rank=2, target_modules=targets)
    student = Student(weights, settings, freeze_audio_tower=True)
    assert student.audio_tower_frozen
    assert not any("lora_" in name for part in student.audio_modules.values() for name, _ in part.named_parameters())
    text = student.architecture.text_config(student.base.config)
    head = text.hidden_size // text.num_attention_heads
    # rank x (inputs + outputs) of the query's and the value's projection in each layer of the language model
    of_query = 2 * (text.hidden_size + text.num_attention_heads * head)
    of_value = 2 * (text.hidden_size + text.num_key_value_heads * head)
    counts = trained_parts(student)
    assert counts.pop("adapters of language_model") == text.num_hidden_layers * (of_query + of_value)
    assert set(counts.values()) == {0}
    heard = Student(weights, settings)  # without the setting, a list means the tower too
    assert not heard.audio_tower_frozen and trained_parts(heard)["adapters of audio_tower"] > 0


@BOTH
def test_adapters_on_a_frozen_tower_alone_are_refused(weights: str) -> None:
    with pytest.raises(WeightsError, match=r"only parts .* not trained, such as .*audio_tower.*freeze_audio_tower"):
        Student(weights, LoRASettings(target_modules=r".*audio_tower.*q_proj"), freeze_audio_tower=True)


@OMNI
def test_eyes_get_no_adapters(weights: str) -> None:
    student = Student(weights, LoRASettings(target_modules=["gate_proj", "up_proj"]))
    assert not any("lora_" in name for name, _ in student.base.visual.named_parameters())


def test_what_is_trained_is_said(weights: str) -> None:
    student = Student(weights, freeze_audio_tower=True)
    language = (
        sum(p.numel() for p in student.base.model.language_model.parameters()) + student.base.lm_head.weight.numel()
    )
    whole = sum(p.numel() for p in student.parameters())
    assert describe_trained_parts(student) == (
        f"Trained weights: audio tower frozen, multi modal projector frozen, language model {language:,}; "
        f"{language:,} of {whole:,}"
    )
    assert min(trained_parts(Student(weights)).values()) > 0


@OMNI
@pytest.mark.parametrize("targets", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head", "q_proj"], ["q_proj"]])
def test_tied_embeddings_with_adapters_are_exported_as_what_they_are(
    weights: str, processor, tmp_path: Path, targets: list[str]
) -> None:
    """An adapter on one of the two makes them two: both are written, and both readers are told so."""
    place = Path(shutil.copytree(weights, tmp_path / "tied"))
    tensors = load_file(place / "model.safetensors")
    tensors.pop("thinker.lm_head.weight")
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((place / "config.json").read_text())
    for part in (config["thinker_config"], config["thinker_config"]["text_config"]):
        part["tie_word_embeddings"] = True
    (place / "config.json").write_text(json.dumps(config))
    student = Student(str(place), LoRASettings(target_modules=targets))
    generator = torch.Generator().manual_seed(0)
    for _, weight in student.trainable_parameters():
        weight.data.normal_(0, 0.3, generator=generator)
    student.save_pretrained(tmp_path / "best")
    untied = targets != ["q_proj"]
    written = load_file(tmp_path / "best" / "model.safetensors")
    assert ("thinker.lm_head.weight" in written) == untied
    assert written.keys() == student.hub_shapes().keys()
    thinker = json.loads((tmp_path / "best" / "config.json").read_text())["thinker_config"]
    assert (thinker["tie_word_embeddings"], thinker["text_config"]["tie_word_embeddings"]) == (not untied, not untied)
    batch = make_batch(processor, [2.0], [[4, 7]])
    with torch.no_grad():
        expected = student.completion_logprobs(batch).logprobs
        again = Student(str(tmp_path / "best"))
        torch.testing.assert_close(again.completion_logprobs(batch).logprobs, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(released_logprobs(again.base, processor, batch), expected, atol=1e-4, rtol=0)
        base = Student(str(place)).completion_logprobs(batch).logprobs
    assert (base - expected).abs().max() > 1e-2
