"""Audio Flamingo 3 from its weights to a score: the shipped configurations, small, against a real vLLM server."""

import json
from pathlib import Path

import pytest
import yaml

from inference.vllm_server import VLLMServer
from records.records import Prediction, Trace, read_jsonl, write_jsonl
from tests.support.stages import OPTIONS
from tests.support.tiny_flamingo import build
from train import main

pytestmark = [pytest.mark.server, pytest.mark.slow]

SPEAKS = 12
"""Tokens of an answer, which is noise."""


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a teacher would have said of the twelve questions of ``avqa``."""
    folder = tmp_path_factory.mktemp("traces")
    rows = [
        Trace(f"avqa/train/{n}", sample, f"It sounds {'loud' if sample else 'low'}.", OPTIONS[n % 4], "teacher")
        for n in range(12)
        for sample in range(2)
    ]
    write_jsonl(folder / "traces.jsonl", rows)
    return folder


def overlay(place: Path, stage: str, weights: Path, avqa: Path, traces: Path) -> Path:
    """Write what makes a shipped stage small."""
    training = stage != "avqa"
    length = {"max_new_tokens": SPEAKS} if stage == "grpo" else {"eval_max_new_tokens": SPEAKS}
    trainer: dict[str, object] = {"accelerator": "cpu", "precision": "32-true", "enable_progress_bar": False}
    trainer["default_root_dir"] = str(place / stage)
    model: dict[str, object] = {"weights": str(weights)}
    data: dict[str, object] = {"root": str(avqa), "prompt": "think-short", "num_workers": 0, "eval_batch_size": 4}
    if training:
        trainer |= {"max_steps": 2, "val_check_interval": 1, "limit_val_batches": 1.0, "num_sanity_val_steps": 0}
        model |= {"gradient_checkpointing": False, "lr": 1e-3}
        data |= {"traces": str(traces), "verdicts": None, "verified": False, "batch_size": 2}
    if stage == "grpo":
        model |= {"num_completions": 3, "reward_functions": [{"class_path": "tests.support.interruption.Spread"}]}
    trainer["callbacks+"] = [{"class_path": "callbacks.VLLMRollout", "init_args": length}]
    values = {"trainer": trainer, "model": {"init_args": model}, "data": {"init_args": data}}
    (file := place / f"{stage}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


def test_sft_then_grpo_then_a_score(avqa: Path, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = build(tmp_path / "weights", seconds=30, windows=2)
    with VLLMServer(weights, max_num_seqs=16, max_model_len=2048, log_file=tmp_path / "log") as server:
        monkeypatch.setenv("SIGHTSOUND_SERVERS", json.dumps([server.url]))
        for stage, begins in (("sft", weights), ("grpo", tmp_path / "sft" / "best")):
            file = overlay(tmp_path, stage, begins, avqa, traces)
            main(["fit", "--config", f"{stage}.yaml", "--config", "audio_flamingo.yaml", "--config", str(file)])
            exported = json.loads((tmp_path / stage / "best" / "config.json").read_text())
            assert exported["architectures"] == ["AudioFlamingo3ForConditionalGeneration"]
            assert list((tmp_path / stage / "checkpoints").iterdir())
        file = overlay(tmp_path, "avqa", tmp_path / "grpo" / "best", avqa, traces)
        main(["test", "--config", "benchmark/avqa.yaml", "--config", str(file)])
    predictions = list(read_jsonl(tmp_path / "avqa" / "predictions.jsonl", Prediction))
    assert len(predictions) == 4 and all(p.completion for p in predictions)
