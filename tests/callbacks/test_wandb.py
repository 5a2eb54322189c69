"""Weights & Biases offline: what is logged, that it can be played, and that nothing is harmful without it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import wandb
import yaml

from cli.config_files import CONFIG_FOLDER
from tests.support.recording_logger import RecordingLogger
from train import main

pytestmark = pytest.mark.integration  # whole runs

STEPS = 4


def fit(world: Path, root: Path, logger: Any, *more: str) -> Any:
    values = {
        "trainer": {
            "default_root_dir": str(root),
            "accelerator": "cpu",
            "max_steps": STEPS,
            "check_val_every_n_epoch": None,
            "val_check_interval": 2,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "logger": logger,
            "callbacks": [
                {"class_path": "callbacks.LocalRollout", "init_args": {"max_new_tokens": 4}},
                {"class_path": "callbacks.RewardLogger", "init_args": {"every_n_batches": 2}},
                {"class_path": "callbacks.AccuracyLogger"},
                {
                    "class_path": "callbacks.CompletionTable",
                    "init_args": {"every_n_batches": 2, "max_rows": 3},
                },
                {"class_path": "callbacks.LastCheckpoint"},
            ],
        },
        "model": {
            "class_path": "lightning_modules.GRPOModule",
            "init_args": {
                "weights": f"{world}/student",
                "num_completions": 2,
                "num_iterations": 1,
                "reward_functions": [{"class_path": "tests.support.interruption.Spread"}],
            },
        },
        "data": {
            "class_path": "datamodules.TracesDataModule",
            "init_args": {
                "root": f"{world}/corpus/avqa",
                "traces": f"{world}/corpus/traces.jsonl",
                "unanimous": False,
                "use": "prompts",
                "prompt": "think-short",
                "batch_size": 2,
                "num_workers": 0,
                "report_dir": f"{world}/report",
            },
        },
    }
    root.mkdir(exist_ok=True)
    (root / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return main(["fit", "--config", str(root / "config.yaml"), *more])


def by_key(key: str) -> list[tuple[int | None, Any]]:
    return [(step, values[key]) for step, values in RecordingLogger.seen if key in values]


@pytest.fixture(scope="module")
def run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("run")
    logger = {"class_path": "tests.support.recording_logger.RecordingLogger", "init_args": {"save_dir": str(root)}}
    return fit(world, root, logger)


def test_reward_and_its_companions_are_logged_once_a_step(run: Any) -> None:
    for key in (
        "train/reward",
        "train/reward/spread",
        "train/reward_std",
        "train/frac_reward_zero_std",
        "train/completion_length",
        "train/truncated",
        "train/kl",
        "train/clip_ratio",
        "train/entropy",
        "train/sampling_logp_difference",
        "rollout/tokens_per_s",
        "time/rollout",
        "time/learner",
        "lr",
    ):
        assert [step for step, _ in by_key(key)] == list(range(STEPS)), key


def test_reward_histograms_hold_all_completions(run: Any) -> None:
    histograms = by_key("train/reward_histogram")
    assert [step for step, _ in histograms] == [1, 3]
    assert all(isinstance(h, wandb.Histogram) and sum(h.histogram) == 2 * 2 for _, h in histograms)  # B = 2, G = 2
    assert [step for step, _ in by_key("train/advantage_histogram")] == [1, 3]
    categories = {k for _, values in RecordingLogger.seen for k in values if k.startswith("train/reward_by_category/")}
    assert categories
    rewards = dict(by_key("train/reward"))
    means = [value for key in categories for _, value in by_key(key)]
    assert all(min(0.0, *rewards.values()) <= mean <= 1.0 for mean in means)


def test_accuracy_of_each_validation(run: Any) -> None:
    overall = by_key("val/accuracy")
    assert [step for step, _ in overall] == [1, 3]
    best = by_key("val/best_accuracy")
    assert [value for _, value in best] == list(np.maximum.accumulate([value for _, value in overall]))
    last = by_key("val/accuracy_table")[-1][1]
    assert last.columns == ["step", "category", "accuracy"]
    assert {row[0] for row in last.data} == {2, 4}  # optimizer steps
    assert [row[2] for row in last.data if row[1] == "overall"] == [value for _, value in overall]
    assert len(by_key("val/accuracy_chart")) == 2
    categories = [key for _, values in RecordingLogger.seen for key in values if key.startswith("val/accuracy/")]
    assert {row[1] for row in last.data} - {"overall"} == {key.removeprefix("val/accuracy/") for key in categories}


def test_completions_are_shown_with_playable_audio(run: Any) -> None:
    tables = by_key("train/completions")
    assert [step for step, _ in tables] == [1, 3]
    table = tables[0][1]
    assert len(table.data) == 3
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.data]
    assert {"question", "options", "trace", "answer", "label", "reward/spread", "advantage", "audio"} <= rows[0].keys()
    assert rows[0]["question_id"] == rows[1]["question_id"] != rows[2]["question_id"]  # G = 2
    assert rows[0]["advantage"] == pytest.approx(-rows[1]["advantage"], abs=1e-5)
    entries = table._artifact_target.artifact.manifest.entries  # wandb keeps a table's media in an artifact
    clips = [entry.local_path for path, entry in entries.items() if path.endswith(".wav")]
    assert len(clips) == 2  # of two questions
    for clip in clips:
        samples, rate = soundfile.read(clip)
        assert rate == 16000 and len(samples) > 8000 and np.abs(samples).max() > 0.01
    validation = by_key("val/completions")
    assert [step for step, _ in validation] == [1, 3]
    assert {"choice", "correct", "label"} <= set(validation[0][1].columns)


def test_the_sweeps_metric_is_logged(run: Any) -> None:
    sweep = yaml.safe_load((CONFIG_FOLDER / "sweep.yaml").read_text())
    assert by_key(sweep["metric"]["name"])


def test_configuration_is_logged(run: Any) -> None:
    assert run.trainer.logger.experiment.config["config"]["trainer"]["max_steps"] == STEPS


@pytest.mark.parametrize("logger", [False, {"class_path": "CSVLogger"}], ids=["none", "csv"])
def test_nothing_harmful_without_wandb(world: Path, tmp_path: Path, logger: Any) -> None:
    if logger:
        logger = logger | {"init_args": {"save_dir": str(tmp_path)}}
    cli = fit(world, tmp_path, logger)
    assert cli.trainer.global_step == STEPS and wandb.run is None
    assert not list(tmp_path.rglob("*.wandb"))
    if logger:
        written = next(tmp_path.rglob("metrics.csv")).read_text()
        assert "val/best_accuracy" in written and "train/reward" in written


def test_a_resumed_run_goes_on_in_the_same_wandb_run(world: Path, tmp_path: Path) -> None:
    logger = {"class_path": "WandbLogger", "init_args": {"save_dir": str(tmp_path), "offline": True, "project": "t"}}
    first = fit(world, tmp_path, logger, "--trainer.max_steps=2")
    second = fit(world, tmp_path, logger, "--ckpt_path=last")
    third = fit(world, tmp_path, logger, "--trainer.max_steps=1")
    assert second.trainer.global_step == STEPS
    ids = [cli.trainer.logger.version for cli in (first, second, third)]
    assert ids[0] == ids[1] != ids[2]
    assert wandb.run is None


def test_histogram_of_equal_values() -> None:
    from callbacks.tracking.reward_logger import histogram

    assert histogram([1.0, 1.0, 1.0]).histogram == [3]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
