"""From a model in the synthetic world to its table: what is scored is what the benchmark's own run counted."""

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml

from datamodules.media.audio import load_waveform
from evaluation.__main__ import main
from tests.support.synthetic_world import build_world
from train import main as train


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("world"))


def evaluate(world: Path, root: Path, *more: str) -> Any:
    values = {
        "trainer": {
            "default_root_dir": str(root),
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "callbacks": [
                {
                    "class_path": "callbacks.PredictionWriter",
                    "init_args": {"path": "${trainer.default_root_dir}/predictions.jsonl"},
                },
                {"class_path": "callbacks.LocalRollout", "init_args": {"max_new_tokens": 4}},
            ],
        },
        "model": {
            "class_path": "lightning_modules.AudioQAModule",
            "init_args": {"weights": f"{world}/student"},
        },
        "data": {
            "class_path": "datamodules.MMAUDataModule",
            "init_args": {
                "root": f"{world}/corpus/mmau",
                "processor": f"{world}/student",
                "prompt": "direct-short",
                "num_workers": 0,
                "report_dir": f"{world}/report",
            },
        },
    }
    config = world / "config.yaml"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    return train(["test", "--config", str(config), *more])


def test_report_on_a_model(world: Path, tmp_path: Path) -> None:
    cli = evaluate(world, tmp_path / "plain")
    for probe in ("silence", "swap", "noise"):
        evaluate(world, tmp_path / probe, f"--data.init_args.probe={probe}")
    for seed in (1, 2):
        evaluate(world, tmp_path / f"order-{seed}", f"--data.init_args.option_order={seed}")
    output = tmp_path / "report"
    main(["report", f"mine={tmp_path}", "--data", str(world / "corpus"), "--output", str(output), "--no-audio"])
    found = json.loads((output / "scores.json").read_text())["mine"]["mmau"]
    average = found["scores"]["average"]
    assert average["questions"] == 6
    assert average["accuracy"] == pytest.approx(float(cli.trainer.callback_metrics["test/accuracy"]))
    assert found["unparseable"] / 6 == pytest.approx(float(cli.trainer.callback_metrics["test/unanswerable"]))
    assert found["problems"].keys() <= {"cut completion", "empty completion"}
    assert found["probes"].keys() == {"noise", "silence", "swap"}
    assert len(found["orders"]["accuracies"]) == 3


def test_a_planted_clip_is_found(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = world / "corpus"
    row = json.loads((corpus / "mmau" / "mmau-test-mini.json").read_text())[0]
    planted = corpus / "mmau" / row["audio_id"]
    leaked = sorted((corpus / "avqa" / "videos").iterdir())[0]
    before = planted.read_bytes()
    try:
        soundfile.write(planted, 0.5 * load_waveform(leaked), 16_000)
        main(["audit", "--data", str(corpus), "--train", str(leaked.parent), "--benchmark", "mmau"])
        out = capsys.readouterr().out
    finally:
        planted.write_bytes(before)
    assert f"{planted.relative_to(corpus / 'mmau').as_posix()} is {leaked.name}: same sound" in out
