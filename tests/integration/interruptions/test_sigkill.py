"""A run killed with SIGKILL and resumed with ``--ckpt_path last`` is the run that was never killed."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.support.ranks import forked
from train import main

STEPS = 7


def config(stage: str, world: Path, root: Path, num_iterations: int = 1) -> dict[str, Any]:
    common = {"weights": f"{world}/student", "lr": 3e-3, "warmup_steps": 4}
    sft = {"lora": {"rank": 4, "dropout": 0.2, "target_modules": ["q_proj", "up_proj"]}}
    grpo = {
        "num_completions": 3,
        "beta": 0.1,
        "micro_batch_size": 1,
        "num_iterations": num_iterations,
        "reward_functions": [{"class_path": "tests.support.interruption.Spread"}],
    }
    module = {"sft": ("sft.SFTModule", sft), "grpo": ("grpo.GRPOModule", grpo)}[stage]
    return {
        "trainer": {
            "default_root_dir": str(root),
            "accelerator": "cpu",
            "max_steps": STEPS * num_iterations,
            "check_val_every_n_epoch": None,
            "val_check_interval": 3,
            "num_sanity_val_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [
                {
                    "class_path": "callbacks.LocalRollout",
                    "init_args": {"max_new_tokens": 6, "eval_max_new_tokens": 3},
                },
                {"class_path": "tests.support.interruption.Recorder", "init_args": {"path": f"{root}/steps.jsonl"}},
                {"class_path": "callbacks.WeightsExport"},
                {"class_path": "callbacks.BestCheckpoint"},
                {
                    "class_path": "callbacks.LastCheckpoint",
                    "init_args": {"every_n_batches": 2},
                },
            ],
        },
        "model": {"class_path": f"lightning_modules.{module[0]}", "init_args": common | module[1]},
        "data": {
            "class_path": "datamodules.TracesDataModule",
            "init_args": {
                "root": f"{world}/corpus/avqa",
                "traces": f"{world}/corpus/traces.jsonl",
                "unanimous": False,
                "use": {"sft": "sft", "grpo": "prompts"}[stage],
                "prompt": "think-short",
                "batch_size": 2,
                "num_workers": 0,
                "report_dir": f"{world}/report",
            },
        },
    }


def fit(values: dict[str, Any], root: Path, *more: str) -> Any:
    root.mkdir(exist_ok=True)
    (root / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return main(["fit", "--config", str(root / "config.yaml"), *more])


def killed(values: dict[str, Any], root: Path, moment: str, step: int) -> None:
    """Run until the kill."""
    kill = {"class_path": "tests.support.interruption.KillAt", "init_args": {"moment": moment, "step": step}}
    callbacks = [kill, *values["trainer"]["callbacks"]]
    values = values | {"trainer": values["trainer"] | {"callbacks": callbacks}}
    process = forked(fit, values, root, log=root.with_suffix(".log"))
    process.join(240)
    assert process.exitcode == -signal.SIGKILL, root.with_suffix(".log").read_text(encoding="utf-8")


def steps(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "steps.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


KILLS = [("optimizer", 0), ("optimizer", 3), ("batch_end", 4), ("validation", 3), ("optimizer", 6)]


@pytest.mark.parametrize(
    ("stage", "num_iterations", "kills"),
    [("sft", 1, KILLS[1:4]), ("grpo", 1, KILLS), ("grpo", 2, KILLS[1:3])],
    ids=["sft", "grpo", "grpo_two_epochs"],
)
def test_resumed_run_is_the_same(
    world: Path, tmp_path: Path, stage: str, num_iterations: int, kills: list[tuple[str, int]]
) -> None:
    whole = tmp_path / "whole"
    fit(config(stage, world, whole, num_iterations), whole)
    expected = steps(whole)
    assert len(expected) == STEPS
    assert len({tuple(record["questions"]) for record in expected}) > 3
    changing = torch.tensor(
        [record["metrics"]["train/loss" if stage == "sft" else "train/grad_norm"] for record in expected]
    )
    assert changing.abs().min() > 1e-3 and changing.unique().numel() == STEPS
    for moment, step in kills:
        root = tmp_path / f"{moment}{step}"
        values = config(stage, world, root, num_iterations)
        killed(values, root, moment, step * num_iterations)
        before = steps(root) if (root / "steps.jsonl").exists() else []
        fit(values, root, "--ckpt_path", "last")
        after = steps(root)[len(before) :]
        assert len(before) < STEPS and after[-1]["step"] == STEPS * num_iterations
        # at most two batches and a validation are repeated; what is repeated and what follows is as it was
        assert len(before) + len(after) <= STEPS + 3
        for record in before + after:
            same = next(other for other in expected if other["step"] == record["step"])
            assert {**record, "metrics": None} == {**same, "metrics": None}, (moment, step)
            assert record["metrics"] == pytest.approx(same["metrics"], abs=1e-5), (moment, step)
        for name, value in load_file(whole / "best" / "model.safetensors").items():
            assert torch.allclose(value, load_file(root / "best" / "model.safetensors")[name], atol=1e-6), name
        notes = (json.loads((folder / "best" / "training.json").read_text()) for folder in (whole, root))
        assert next(notes) == next(notes)


def test_without_a_checkpoint_it_starts_afresh(world: Path, tmp_path: Path) -> None:
    values = config("sft", world, tmp_path / "run")
    values["trainer"]["max_steps"] = 1
    cli = fit(values, tmp_path / "run", "--ckpt_path", "last")
    assert cli.trainer.global_step == 1
    with pytest.warns(UserWarning, match="results of an earlier run, which this run replaces: --ckpt_path last"):
        assert fit(values, tmp_path / "run").trainer.global_step == 1


def test_checkpoint_of_another_stage_is_refused(world: Path, tmp_path: Path, capsys) -> None:
    values = config("sft", world, tmp_path / "sft")
    values["trainer"]["max_steps"] = 1
    fit(values, tmp_path / "sft")
    checkpoint = tmp_path / "sft" / "checkpoints" / "last.ckpt"
    assert checkpoint.exists()
    with pytest.raises(SystemExit):
        fit(config("grpo", world, tmp_path / "grpo"), tmp_path / "grpo", f"--ckpt_path={checkpoint}")
    assert "was written by lightning_modules.sft.SFTModule" in capsys.readouterr().err


def test_configuration_wins_over_a_checkpoint(world: Path, tmp_path: Path) -> None:
    values = config("sft", world, tmp_path / "run")
    values["trainer"]["max_steps"] = 2
    fit(values, tmp_path / "run")
    values["model"]["init_args"] |= {"weight_decay": 0.5, "lr": 0.08}
    values["data"]["init_args"]["prompt"] = "direct-short"
    values["trainer"]["max_steps"] = 3
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    differing = (
        r"data\.prompt think-short -> direct-short, model\.lr 0\.003 -> 0\.08, model\.weight_decay 0\.0 -> 0\.5, "
        r"trainer\.max_steps 2 -> 3\): the new values count from here on"
    )
    with pytest.warns(UserWarning, match=differing):
        cli = fit(values, tmp_path / "run", f"--ckpt_path={checkpoint}")
    assert (cli.model.settings.weight_decay, cli.trainer.global_step) == (0.5, 3)
    groups = cli.trainer.optimizers[0].param_groups
    assert groups[0]["weight_decay"] == 0.5
    assert {group["initial_lr"] for group in groups} == {0.08}
    assert float(cli.trainer.callback_metrics["lr"]) == pytest.approx(0.08 * 2 / 4)  # after 2 of 4 steps of warm-up
    assert {group["lr"] for group in groups} == {0.08 * 3 / 4}
