"""Each overlay of configs/objective takes its steps on rollouts of a real server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import soundfile
import torch
import yaml
from jsonargparse import ArgumentParser

from callbacks.difficulty_curriculum import DifficultyCurriculum
from callbacks.rollout.vllm_rollout import VLLMRollout
from cli.config_files import CONFIG_FOLDER
from datamodules.avqa import AVQADataModule
from inference.vllm_server import VLLMServer
from lightning_modules.grpo import GRPOModule
from lightning_modules.judgement_memory import KeptJudgement
from lightning_modules.models.alignment_head import AlignmentHead
from lightning_modules.models.frozen_audio_encoder import FrozenAudioEncoder
from lightning_modules.models.head_folder import save_head
from mini.world.endpoints import CHECKER, MiniEndpoints
from tests.support.dataset_files import avqa_row, tone
from tests.support.questions import Questions
from tests.support.stages import records

pytestmark = pytest.mark.server
APART = ("curriculum", "on_policy_distillation")
OVERLAYS = sorted(path.stem for path in (CONFIG_FOLDER / "objective").glob("*.yaml") if path.stem not in APART)
OFTEN = ("cispo", "gdpo")  # the others are of the slow tier

WORDS = {"class_path": "lightning_modules.AccuracyReward"}, {"class_path": "tests.support.interruption.Spread"}


class Kept(lightning.Callback):
    """Keeps what was logged of each batch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})


@pytest.fixture(scope="module")
def checker() -> Iterator[str]:
    with MiniEndpoints() as endpoints:
        yield endpoints.url


def at_hand(overlay: str, weights: Path, checker: str, tmp_path: Path) -> Path:
    """An overlay whose judges are those that a test has."""
    text = (CONFIG_FOLDER / "objective" / f"{overlay}.yaml").read_text(encoding="utf-8")
    if overlay == "grounding_trained":
        encoder = FrozenAudioEncoder(str(weights))
        save_head(tmp_path / "head", AlignmentHead(encoder.audio_width("encoder"), encoder.text_width), {})
    for there, here in (
        ("Qwen/Qwen2-Audio-7B-Instruct", str(weights)),
        ("runs/verifier/head", str(tmp_path / "head")),
        ("https://api.openai.com/v1", checker),
        ("gpt-4o-audio-preview", CHECKER),
        ("runs/grpo/grounding", str(tmp_path / "grounding")),
    ):
        text = text.replace(there, here)
    (tmp_path / f"{overlay}.yaml").write_text(text, encoding="utf-8")
    return tmp_path / f"{overlay}.yaml"


def module_of(overlay: Path, weights: Path, tmp_path: Path) -> GRPOModule:
    base = {
        "class_path": "lightning_modules.GRPOModule",
        "init_args": {"weights": str(weights), "lr": 1e-3, "num_completions": 3, "reward_functions": list(WORDS)},
    }
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({"model": base}), encoding="utf-8")
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(lightning.LightningModule, "model")
    files = (tmp_path / "base.yaml", overlay)
    return parser.instantiate(parser.parse_args([f"--config={file}" for file in files])).model


def weights_of(student: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in student.parameters()])


@pytest.mark.parametrize(
    "overlay", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in OVERLAYS]
)
def test_overlays_train(
    overlay: str, vllm_server: VLLMServer, server_weights: Path, checker: str, tmp_path: Path
) -> None:
    module = module_of(at_hand(overlay, server_weights, checker, tmp_path), server_weights, tmp_path)
    start, kept = weights_of(module.student), Kept()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        callbacks=[VLLMRollout([vllm_server.url], max_new_tokens=8, parity_gate=False, seed=3), kept],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    spares = module.spare_prompts
    trainer.fit(module, Questions(module.student.processor, 4 + 2 * spares, 2, spares))
    assert len(kept.rows) == 2 and trainer.global_step == 2 * module.settings.num_iterations
    assert all(torch.isfinite(torch.tensor(list(row.values()))).all() for row in kept.rows)
    assert all(row["train/sampling_logp_difference"] < 1e-3 for row in kept.rows)
    if module.settings.objective.mask_truncated and kept.rows[0]["train/truncated"] == 1:
        return  # a student that has learnt nothing ends nothing either
    assert not torch.equal(weights_of(module.student), start)
    if overlay == "overlong_penalty":
        assert kept.rows[0]["train/reward/overlong"] == 0  # 8 tokens are not many
    if overlay.startswith("grounding"):
        assert all(row["train/grounding_unjudged"] == 0 <= row["train/reward/grounding"] <= 1 for row in kept.rows)
    if overlay == "grounding_trained":
        assert len({row["train/reward/grounding"] for row in kept.rows}) == 2
    if overlay == "grounding_endpoint":
        assert records(tmp_path / "grounding" / "judgements", KeptJudgement)
    if overlay.startswith("importance"):
        metric = module.settings.objective.importance.metric
        assert 0 <= kept.rows[0][f"train/{metric}"] < 1
    if overlay in ("resample_groups", "refill_batch"):
        assert all(row["train/wasted_tokens"] >= 0 for row in kept.rows)
    if overlay == "reference_average":
        assert module.reference is not None and not torch.equal(weights_of(module.reference), start)


def test_the_curriculum_trains(vllm_server: VLLMServer, server_weights: Path, tmp_path: Path) -> None:
    layer = yaml.safe_load((CONFIG_FOLDER / "objective" / "curriculum.yaml").read_text(encoding="utf-8"))
    (entry,) = layer["trainer"]["callbacks+"]
    assert entry["class_path"] == "callbacks.DifficultyCurriculum"
    curriculum, kept = DifficultyCurriculum(**entry["init_args"]), Kept()
    (tmp_path / "avqa" / "videos").mkdir(parents=True)
    for number in range(4):
        soundfile.write(tmp_path / "avqa" / "videos" / f"clip{number}.wav", tone(0.5, 300.0 + number), 16_000)
    rows = [avqa_row(number) for number in range(4)]
    for split in ("train", "val"):
        (tmp_path / "avqa" / f"{split}_qa.json").write_text(json.dumps(rows), encoding="utf-8")
    module = GRPOModule(str(server_weights), lr=1e-3, num_completions=3)
    start = weights_of(module.student)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        callbacks=[VLLMRollout([vllm_server.url], max_new_tokens=8, parity_gate=False, seed=3), curriculum, kept],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, AVQADataModule(str(tmp_path / "avqa"), batch_size=2, num_workers=0, media_suffix=".wav"))
    assert [row["curriculum/questions_seen"] for row in kept.rows] == [2, 4]
    assert set(curriculum.rates) == {question.id for question in trainer.datamodule.questions("train")}  # type: ignore
    assert trainer.global_step == 2 and torch.isfinite(weights_of(module.student)).all() and start.numel() > 0
