"""The whole command line on two ranks: every callback, nothing twice, nobody waits for ever."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from records.records import Prediction, read_jsonl

ROOT = Path(__file__).resolve().parents[3]


def run(stage: str, values: dict[str, Any], root: Path) -> str:
    root.mkdir(exist_ok=True)
    (root / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    command = [sys.executable, str(ROOT / "train.py"), stage, "--config", str(root / "config.yaml")]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "WANDB_DATA_DIR": str(root),
        "WANDB_CACHE_DIR": str(root),
    }
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout


def test_fit_and_test(world: Path, tmp_path: Path) -> None:
    root = tmp_path / "grpo"
    data = {
        "root": f"{world}/corpus/avqa",
        "prompt": "think-short",
        "num_workers": 0,
        "report_dir": f"{world}/report",
    }
    two_ranks = {
        "accelerator": "cpu",
        "devices": 2,
        "strategy": "ddp",
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
    }
    rollout = {"class_path": "callbacks.LocalRollout", "init_args": {"max_new_tokens": 4}}
    run(
        "fit",
        {
            "trainer": {
                **two_ranks,
                "default_root_dir": str(root),
                "max_steps": 4,
                "check_val_every_n_epoch": None,
                "val_check_interval": 2,
                "log_every_n_steps": 1,
                "logger": {
                    "class_path": "WandbLogger",
                    "init_args": {"save_dir": str(root), "offline": True, "project": "test"},
                },
                "callbacks": [
                    rollout,
                    {
                        "class_path": "callbacks.RewardLogger",
                        "init_args": {"every_n_batches": 1},
                    },
                    {"class_path": "callbacks.AccuracyLogger"},
                    {
                        "class_path": "callbacks.CompletionTable",
                        "init_args": {"every_n_batches": 1},
                    },
                    {"class_path": "callbacks.WeightsExport"},
                    {"class_path": "callbacks.BestCheckpoint"},
                    {
                        "class_path": "callbacks.LastCheckpoint",
                        "init_args": {"every_n_batches": 1},
                    },
                ],
            },
            "model": {
                "class_path": "lightning_modules.GRPOModule",
                "init_args": {
                    "weights": f"{world}/student",
                    "num_completions": 2,
                    "reward_functions": [{"class_path": "tests.support.interruption.Spread"}],
                },
            },
            "data": {
                "class_path": "datamodules.TracesDataModule",
                "init_args": data
                | {
                    "traces": f"{world}/corpus/traces.jsonl",
                    "unanimous": False,
                    "use": "prompts",
                    "batch_size": 1,
                },
            },
        },
        root,
    )
    assert {"last.ckpt"} < {path.name for path in (root / "checkpoints").iterdir()}
    assert json.loads((root / "best" / "training.json").read_text())["module"] == "GRPOModule"
    assert len(list((root / "wandb").glob("offline-run-*"))) == 1

    evaluation = tmp_path / "test"
    run(
        "test",
        {
            "trainer": {
                **two_ranks,
                "default_root_dir": str(evaluation),
                "callbacks": [
                    {
                        "class_path": "callbacks.PredictionWriter",
                        "init_args": {"path": f"{evaluation}/predictions.jsonl"},
                    },
                    rollout,
                ],
            },
            "model": {
                "class_path": "lightning_modules.AudioQAModule",
                "init_args": {"weights": f"{root}/best"},
            },
            "data": {"class_path": "datamodules.AVQADataModule", "init_args": data | {"eval_batch_size": 4}},
        },
        evaluation,
    )
    found = [p.question_id for p in read_jsonl(evaluation / "predictions.jsonl", Prediction)]
    asked = json.loads((world / "corpus" / "avqa" / "val_qa.json").read_text())
    assert sorted(found) == sorted(f"avqa/val/{row['id']}" for row in asked)
