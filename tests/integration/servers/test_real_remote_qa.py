"""Benchmarks answered by a real vLLM server over its chat API, with a tiny Qwen2-Audio: the answers are noise."""

import json
from pathlib import Path
from typing import Any

import pytest

from inference.vllm_server import VLLMServer
from records.records import Prediction, read_jsonl
from train import main

pytestmark = pytest.mark.server


def test_the_server_hears_and_its_answers_are_scored(
    vllm_server: VLLMServer, server_weights: Path, avqa: Path, tmp_path: Path
) -> None:
    def run(out: Path, *more: str) -> list[Prediction]:
        values: dict[str, Any] = {
            "trainer.default_root_dir": out,
            "trainer.enable_progress_bar": "false",
            "model.init_args.endpoint.base_url": f"{vllm_server.url}/v1",
            "model.init_args.endpoint.model": server_weights,
            "model.init_args.max_tokens": 12,
            "data.init_args.root": avqa,
            "data.init_args.num_workers": 0,
        }
        configs = ("--config", "benchmark/avqa.yaml", "--config", "benchmark/endpoint.yaml")
        main(["test", *configs, *(f"--{name}={value}" for name, value in values.items()), *more])
        return list(read_jsonl(out / "predictions.jsonl", Prediction))

    found, again = run(tmp_path / "one"), run(tmp_path / "two")
    silent = run(tmp_path / "silent", "--data.init_args.probe=silence")
    report = json.loads((tmp_path / "one" / "report.json").read_text())
    assert len(found) == 4 and report["errors"] == {}
    assert all(p.completion and p.model == str(server_weights) for p in found)
    assert [p.completion for p in found] == [p.completion for p in again], "the likeliest answer, not a drawn one"
    assert [p.completion for p in found] != [p.completion for p in silent], "it hears"
    assert report["prompt_tokens"] > 4 * 150 and 0 < report["completion_tokens"] <= 4 * 12
