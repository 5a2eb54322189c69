"""A tiny student comes to speak as a tiny teacher does that sees the clips; with another clip's frames it does less."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from callbacks.rollout.local_rollout import LocalRollout, _left_padded_prompts
from callbacks.rollout.teacher_prompts import TeacherPrompts
from callbacks.rollout.teacher_servers import TeacherServers
from datamodules.avqa import AVQADataModule
from inference.rollout_requests import Prompt
from inference.teacher_pool import TeacherPool
from inference.vllm.client import RequestOutput
from inference.vllm_server import VLLMServer
from lightning_modules.distillation import OnPolicyDistillation
from lightning_modules.grpo import GRPOModule
from lightning_modules.objectives.objective import Objective
from mini.world.corpus import CorpusConfig, build_corpus
from tests.integration.servers.test_on_policy_distillation import FRAMES, inputs_of
from tests.support.tiny_model import build as build_student
from tests.support.tiny_vision_model import build, of_student

pytestmark = [pytest.mark.server, pytest.mark.slow]

STEPS, CLIPS = 30, 6
SHARED = [*range(3), *range(6, 265)]
"""Tokens that student and teacher both have."""


@pytest.fixture(scope="module")
def teacher_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("weights") / "teacher", tokenizer=of_student())


@pytest.fixture(scope="module")
def avqa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips with one question each."""
    config = CorpusConfig(train_clips=CLIPS, val_clips=1, test_clips=1, questions_per_clip=1)
    corpus = build_corpus(tmp_path_factory.mktemp("world") / "corpus", config, processes=1, progress=lambda line: None)
    return corpus / "avqa"


class ScoredRollout(LocalRollout):
    """Samples in this process, and has a teacher on a server score what was sampled."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_fit_start(trainer, pl_module)
        chosen = pl_module.settings.distillation
        self.teacher = TeacherServers(TeacherPool(list(chosen.urls)), chosen, True)
        self.teacher.wait()
        self.teacher.meet(trainer, pl_module)

    def sample(self, trainer: Any, pl_module: Any, batch: Any, sampling: Any) -> Any:
        samples, version = super().sample(trainer, pl_module, batch, sampling)
        self.teacher.pass_gate(batch, pl_module.student.processor.tokenizer)
        asked = [Prompt(q.id, [], "", how, question=q) for q, how in zip(batch.questions, sampling, strict=True)]
        drawn = [RequestOutput([], group) for group in samples]
        return [self.teacher.score(*pair).samples for pair in zip(asked, drawn, strict=True)], version


class Distance(lightning.Callback):
    """Computes KL(student || teacher) before the first step and after the last, exactly at each sampled token."""

    def __init__(self, weights: Path, prompts: TeacherPrompts) -> None:
        self.teacher = Qwen2_5_VLForConditionalGeneration.from_pretrained(weights, dtype=torch.float32).eval()
        self.weights, self.prompts = weights, prompts
        self.found: list[float] = []

    @torch.no_grad()
    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step not in (0, STEPS):
            return
        done, values = batch.completions, []
        embedded, known = _left_padded_prompts(module.student, batch)
        words = module.student.base.get_input_embeddings()
        for row, question in enumerate(batch.questions):
            images = self.prompts.pictures(self.prompts.frames(question).pixels)
            for index in range(done.ids.shape[1]):
                ids = done.ids[row, index, : done.lengths[row, index]]
                heard = torch.cat([embedded[row : row + 1], words(ids)[None]], 1)
                mask = torch.cat([known[row : row + 1], torch.ones(1, len(ids), dtype=torch.long)], 1)
                own = module.student.base(inputs_embeds=heard, attention_mask=mask).logits[0, -len(ids) - 1 : -1]
                sampled = own.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
                assert (sampled - done.logprobs[row, index, : len(ids)]).abs().max() < 1e-3
                end = next((at for at, token in enumerate(ids.tolist()) if token not in SHARED), len(ids))
                if end == 0:
                    continue
                seen = inputs_of(self.weights, self.prompts.messages(question, images), ids[:end].tolist())
                theirs = self.teacher(**seen).logits[0, -end - 1 : -1, SHARED].log_softmax(-1)
                mine = own[:end, SHARED].log_softmax(-1)
                values.append((mine.exp() * (mine - theirs)).sum(-1))
        self.found.append(float(torch.cat(values).mean()))


def distances(root: Path, student: Path, teacher_weights: Path, url: str, avqa: Path, wrong: bool) -> list[float]:
    """Distance before and after 30 steps by the teacher's word alone."""
    right = OnPolicyDistillation(teacher_urls=[url], frames=FRAMES)
    module = GRPOModule(
        str(student),
        lr=5e-4,
        warmup_steps=0,
        beta=0.0,
        num_completions=8,
        objective=Objective(reward_weights={"accuracy": 0.0, "format": 0.0}),
        distillation=dataclasses.replace(right, wrong_frames=wrong),
    )
    data = AVQADataModule(str(avqa), batch_size=CLIPS, num_workers=0, prompt="think-short")
    data.setup("fit")
    tokenizer = AutoTokenizer.from_pretrained(teacher_weights)
    kept = Distance(teacher_weights, TeacherPrompts(right, tokenizer, data))
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=STEPS + 1,
        limit_val_batches=0,
        logger=False,
        callbacks=[ScoredRollout(max_new_tokens=16, seed=3), kept],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=root,
    )
    trainer.fit(module, data)
    return kept.found


def test_the_student_becomes_its_teacher(teacher_weights: Path, avqa: Path, tmp_path: Path) -> None:
    student = build_student(tmp_path / "student", seed=1, seconds=2, head=6.0)
    extra = ["--limit-mm-per-prompt", json.dumps({"image": 8})]
    log = tmp_path / "teacher.log"
    with VLLMServer(teacher_weights, max_num_seqs=64, max_model_len=2048, log_file=log, extra=extra) as teacher:
        right, wrong = (
            distances(tmp_path, student, teacher_weights, teacher.url, avqa, swapped) for swapped in (False, True)
        )
    print(f"KL(student || teacher) {right[0]:.2f}: {right[1]:.2f} with its frames, {wrong[1]:.2f} with another clip's")
    assert right[0] == pytest.approx(wrong[0], rel=1e-3)
    assert right[1] <= 0.4 * right[0]
    assert wrong[1] > 1.1 * right[1]
