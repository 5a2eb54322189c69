"""A real vision-language teacher on vLLM scores what a real student has sampled."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from callbacks.rollout.teacher_gate import check_teacher
from callbacks.rollout.teacher_prompts import TeacherPrompts
from callbacks.rollout.vllm_rollout import VLLMRollout
from cli.config_files import CONFIG_FOLDER
from datamodules.avqa import AVQADataModule
from datamodules.media.video import FrameSampling
from inference.teacher_pool import TeacherPool
from inference.vllm.client import VLLMClient
from inference.vllm_server import VLLMServer
from lightning_modules.distillation import OnPolicyDistillation
from lightning_modules.grpo import GRPOModule
from mini.world.corpus import CorpusConfig, build_corpus
from tests.integration.servers.test_objectives import Kept, weights_of
from tests.support.tiny_vision_model import build, of_student

pytestmark = pytest.mark.server

FRAMES = FrameSampling(count=4, max_side=56)


@pytest.fixture(scope="module")
def teacher_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen2.5-VL whose words have the ids of the tiny student's."""
    return build(tmp_path_factory.mktemp("weights") / "teacher", tokenizer=of_student())


@pytest.fixture(scope="module")
def teacher(teacher_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    """Its server."""
    log = tmp_path_factory.mktemp("vllm") / "teacher.log"
    extra = ["--limit-mm-per-prompt", '{"image": 8}']
    with VLLMServer(teacher_weights, max_num_seqs=16, max_model_len=2048, log_file=log, extra=extra) as server:
        yield server


@pytest.fixture(scope="module")
def avqa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips with two questions each to train on."""
    config = CorpusConfig(train_clips=2, val_clips=1, test_clips=1)
    corpus = build_corpus(tmp_path_factory.mktemp("world") / "corpus", config, processes=1, progress=lambda line: None)
    return corpus / "avqa"


def questions(avqa: Path, **settings: Any) -> AVQADataModule:
    return AVQADataModule(str(avqa), batch_size=2, num_workers=0, prompt="think-short", **settings)


def inputs_of(weights: Path, messages: list[dict[str, Any]], completion: list[int]) -> dict[str, torch.Tensor]:
    """What transformers' model is given of a chat with frames as images, and a completion."""
    processor = AutoProcessor.from_pretrained(weights)
    content = messages[0]["content"]
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    images = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB") for url in urls]
    chat = [{"role": "user", "content": [*({"type": "image"} for _ in images), content[-1]]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    inputs = dict(processor(text=[text], images=images, return_tensors="pt"))
    more = {
        "input_ids": completion,
        "attention_mask": [1] * len(completion),
        "mm_token_type_ids": [0] * len(completion),
    }
    for name in more.keys() & inputs.keys():
        inputs[name] = torch.cat([inputs[name], torch.tensor([more[name]])], -1)
    return inputs


def by_transformers(weights: Path, messages: list[dict[str, Any]], completion: list[int]) -> torch.Tensor:
    """Log-probabilities of a completion in float32."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(weights, dtype=torch.float32).eval()
    inputs = inputs_of(weights, messages, completion)
    with torch.no_grad():
        scores = model(**inputs).logits.log_softmax(-1)[0, -len(completion) - 1 : -1]
    return scores.gather(-1, torch.tensor(completion)[:, None])[:, 0]


def test_scores_are_those_of_transformers(teacher: VLLMServer, teacher_weights: Path, avqa: Path) -> None:
    data = questions(avqa)
    data.setup("fit")
    chosen = OnPolicyDistillation(teacher_urls=[teacher.url], frames=FRAMES)
    tokenizer = AutoTokenizer.from_pretrained(teacher_weights)
    prompts = TeacherPrompts(chosen, tokenizer, data)
    pool = TeacherPool(list(chosen.urls))
    pool.wait(1)
    texts = ["<think>A dog barks.</think><answer>dog</answer><|im_end|>", "yes", "no rain \u00e9<|im_end|>"]
    completions = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    for question in (data.questions("train")[0], data.questions("train")[-1]):
        images = prompts.pictures(prompts.frames(question).pixels)
        found = pool.score(prompts.prompt(question, images), completions)
        for scores, completion in zip(found, completions, strict=True):
            wanted = by_transformers(teacher_weights, prompts.messages(question, images), completion)
            gap = float((torch.tensor(scores) - wanted).abs().max())
            print(f"{question.id}: {len(completion)} tokens, largest gap {gap:.2g}")
            assert gap < 1e-5
    blind = pool.score(prompts.prompt(question, ()), completions)
    assert abs(torch.tensor(blind[0]) - torch.tensor(found[0])).max() > 0.01
    assert check_teacher(VLLMClient(teacher.url), prompts, question, completions[0]) > 0.01
    pool.close()


def module_of(weights: Path, teacher: VLLMServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GRPOModule:
    """GRPO with the overlay, without a task reward."""
    monkeypatch.setenv("SIGHTSOUND_TEACHERS", f"[{teacher.url}]")
    settings = {"weights": str(weights), "lr": 1e-3, "warmup_steps": 0, "num_completions": 2, "beta": 0.0}
    settings["objective"] = {"reward_weights": {"accuracy": 0.0, "format": 0.0}}
    settings["distillation"] = {"frames": {"count": 4, "max_side": 56}}
    base = {"model": {"class_path": "lightning_modules.GRPOModule", "init_args": settings}}
    (tmp_path / "base.yaml").write_text(json.dumps(base), encoding="utf-8")
    parser = ArgumentParser(parser_mode="omegaconf+")
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(lightning.LightningModule, "model")
    files = (CONFIG_FOLDER / "objective" / "on_policy_distillation.yaml", tmp_path / "base.yaml")
    args = ["--model.class_path=lightning_modules.GRPOModule", *(f"--config={file}" for file in files)]
    return parser.instantiate(parser.parse_args(args)).model


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_the_overlay_trains(
    max_staleness: int,
    teacher: VLLMServer,
    vllm_server: VLLMServer,
    server_weights: Path,
    avqa: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = module_of(server_weights, teacher, tmp_path, monkeypatch)
    start, kept = weights_of(module.student), Kept()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=2,
        limit_val_batches=0,
        logger=False,
        callbacks=[VLLMRollout([vllm_server.url], max_new_tokens=8, seed=3, max_staleness=max_staleness), kept],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, questions(avqa))
    assert len(kept.rows) == 2 and all(row["train/teacher_tokens"] > 8 for row in kept.rows)
    assert all(row["train/teacher_kl"] > 0.1 and row["train/teacher_weight"] == 1 for row in kept.rows)
    assert all(0 <= row["train/teacher_clipped"] < 1 and row["time/teacher"] > 0 for row in kept.rows)
    assert not torch.equal(weights_of(module.student), start)  # by the teacher alone
    assert VLLMClient(teacher.url).weight_version() == "default"
