"""The small student is a Qwen2-Audio that transformers loads whole, and its tokenizer keeps what it reads."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

from lightning_modules.models.architectures.qwen2_audio import Qwen2Audio
from lightning_modules.models.student import Student
from mini.world.student import SPECIAL_TOKENS, StudentConfig, build_student

TEXTS = ["Which sound can be heard in the audio? (A) bell (B) dog think"] * 4 + [
    "<think>I hear a bell, then a dog.</think><answer>bell</answer>"
] * 4
TINY = StudentConfig(vocabulary=320, audio_width=32, width=32, layers=1, heads=2)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_student(tmp_path_factory.mktemp("student") / "student", TEXTS, TINY)


def test_from_pretrained_loads_every_weight(directory: Path):
    model, report = Qwen2AudioForConditionalGeneration.from_pretrained(directory, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    stored = load_file(directory / "model.safetensors")
    loaded = {}
    for name, value in model.state_dict().items():
        loaded |= Qwen2Audio().hub_weights(name, value)
    assert stored.keys() == loaded.keys()
    assert all(torch.equal(stored[name], loaded[name]) for name in stored)
    prefixes = {"language_model.model", "language_model.lm_head", "audio_tower", "multi_modal_projector"}
    assert {next(p for p in prefixes if name.startswith(p)) for name in stored} == prefixes


def test_processor_hears_two_seconds_and_has_the_special_tokens(directory: Path):
    processor = AutoProcessor.from_pretrained(directory)
    assert processor.feature_extractor.chunk_length == 2 and processor.feature_extractor.nb_max_frames == 200
    ids = processor.tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert len(set(ids)) == 6 and processor.tokenizer.eos_token == "<|im_end|>"
    config = Qwen2AudioForConditionalGeneration.from_pretrained(directory).config
    assert config.audio_token_id == ids[3] and config.text_config.eos_token_id == ids[2]


def test_tokenizer_keeps_tags_whole_and_texts_unchanged(directory: Path):
    tokenizer = AutoProcessor.from_pretrained(directory).tokenizer
    text = TEXTS[-1]
    tokens = tokenizer.tokenize(text)
    assert tokens[0] == "<think>" and tokens[-1] == "</answer>"
    for sample in (text, TEXTS[0], "Überraschung: 3 < 4, naïve?\n\tEnde", "<answer>a<think>b"):
        assert tokenizer.decode(tokenizer(sample).input_ids) == sample


def test_chat_has_one_audio_placeholder(directory: Path):
    processor = AutoProcessor.from_pretrained(directory)
    chat = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "What is heard?"}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\nWhat is heard?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_builds_are_reproducible_and_reused(directory: Path, tmp_path: Path):
    again = build_student(tmp_path / "again", TEXTS, TINY)
    one, other = load_file(directory / "model.safetensors"), load_file(again / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)
    lines: list[str] = []
    build_student(again, TEXTS, TINY, progress=lines.append)
    assert "up to date" in lines[-1]


def test_export_equals_what_was_loaded(directory: Path, tmp_path: Path):
    Student(str(directory)).save_pretrained(tmp_path / "export")
    one, other = load_file(directory / "model.safetensors"), load_file(tmp_path / "export" / "model.safetensors")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="not such a student"):
        build_student(tmp_path, ["a text"])
    assert (tmp_path / "thesis.tex").read_text() == "mine"
