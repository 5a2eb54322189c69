"""Weights sharded over ranks (FSDP2): killed at any moment, a run goes on as the same run, on any number of ranks."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lightning_modules.models.checkpoints.sharded_checkpoint import ShardedCheckpoint
from tests.integration.interruptions.test_sigkill import config
from tests.support.ranks import run_ranks, stage, start_ranks
from train import main

STEPS, GLOBAL_BATCH = 5, 4
LORA = {
    "rank": 3,
    "target_modules": ["q_proj", "up_proj"],
}  # three rows on two ranks: two and one, on four: one has none


def sharded(
    world: Path, root: Path, ranks: int, lora: bool = False, one_file: bool = False, copies: int = 1
) -> dict[str, Any]:
    values = config("sft", world, root)
    values["model"]["init_args"].pop("lora")
    values["model"]["init_args"]["sharding"] = {"replicas": copies}
    if lora:
        values["model"]["init_args"]["lora"] = LORA
    values["data"]["init_args"]["batch_size"] = GLOBAL_BATCH // ranks
    strategy = {
        "class_path": "ModelParallelStrategy",
        "init_args": {
            "data_parallel_size": ranks,
            "tensor_parallel_size": 1,
            "save_distributed_checkpoint": not one_file,
            "process_group_backend": "gloo",
        },
    }
    callbacks = [callback for callback in values["trainer"]["callbacks"] if "Rollout" not in callback["class_path"]][1:]
    callbacks[-1]["init_args"]["asynchronous"] = True
    losses = {"class_path": "tests.support.interruption.Losses", "init_args": {"path": f"{root}/losses"}}
    values["trainer"] |= {
        "devices": ranks,
        **({"strategy": strategy} if ranks > 1 else {}),
        "limit_val_batches": 0,  # in-process rollouts need whole weights
        "num_sanity_val_steps": 0,
        "max_steps": STEPS,
        "callbacks": [losses, *callbacks],
    }
    return values


def written(values: dict[str, Any], root: Path) -> str:
    root.mkdir(exist_ok=True)
    (root / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(root / "config.yaml")


def fit(values: dict[str, Any], root: Path, *more: str) -> None:
    arguments = ["fit", "--config", written(values, root), *more]
    run_ranks(stage, arguments, root, folder=root.with_suffix(".logs"), ranks=values["trainer"]["devices"])


def killed(values: dict[str, Any], root: Path, kill: dict[str, Any]) -> None:
    """Run until a rank is killed; the others end by themselves."""
    values["trainer"]["callbacks"].insert(0, kill)
    ranks, logs = values["trainer"]["devices"], root.with_suffix(".killed")
    processes = start_ranks(stage, ["fit", "--config", written(values, root)], root, folder=logs, ranks=ranks)
    try:
        for process in processes:
            process.join(200)
        assert -signal.SIGKILL in [process.exitcode for process in processes], (logs / "log-0").read_text()[-3000:]
        assert all(process.exitcode for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.join()


def losses(root: Path) -> dict[int, float]:
    lines = [line.split() for line in (root / "losses").read_text(encoding="utf-8").splitlines()]
    return {int(step): float(loss) for step, loss in lines}


def assert_same(root: Path, expected: Path, world: Path) -> None:
    assert losses(root) == pytest.approx(losses(expected), abs=1e-5) and len(losses(root)) == STEPS
    assert len(set(losses(root).values())) == STEPS
    exported, found = (load_file(folder / "best" / "model.safetensors") for folder in (expected, root))
    assert exported.keys() == found.keys()
    for name, value in exported.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=0, msg=name)
    student = load_file(world / "student" / "model.safetensors")
    assert any(not torch.allclose(found[name], value, atol=1e-3) for name, value in student.items())


def kill_in_save(step: int, rank: int) -> dict[str, Any]:
    return {"class_path": "tests.support.interruption.KillInSave", "init_args": {"step": step, "rank": rank}}


def kill_at(moment: str, step: int) -> dict[str, Any]:
    return {"class_path": "tests.support.interruption.KillAt", "init_args": {"moment": moment, "step": step}}


@pytest.fixture(scope="module")
def uninterrupted(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sharded") / "whole"
    fit(sharded(world, root, 2), root)
    last = root / "checkpoints" / "last.ckpt"
    assert sorted(path.name for path in last.iterdir()) == [".metadata", "__0_0.distcp", "__1_0.distcp", "meta.pt"]
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]
    return root


def go_on(world: Path, killed_run: Path, expected: Path, ranks: int, lora: bool = False, copies: int = 1) -> None:
    """Go on in a copy of what the killed run has left, with so many copies of the weights."""
    root = killed_run.with_name(f"{killed_run.name}-{ranks}")
    shutil.copytree(killed_run, root)
    fit(sharded(world, root, ranks, lora, copies=copies), root, "--ckpt_path", "last")
    assert_same(root, expected, world)
    last = root / "checkpoints" / "last.ckpt"
    assert last.is_dir() == (ranks > 1) and [path.name for path in last.parent.iterdir()] == ["last.ckpt"]


def test_killed_while_it_writes_and_resumed_on_two_ranks_and_on_one(
    uninterrupted: Path, world: Path, tmp_path: Path
) -> None:
    root = tmp_path / "killed"
    killed(sharded(world, root, 2), root, kill_in_save(4, rank=1))
    left = sorted(path.name for path in (root / "checkpoints").iterdir())
    assert left == [".last.ckpt.partial", "last.ckpt"], "that of step 4 is not there, that of step 2 is"
    assert (root / "checkpoints" / ".last.ckpt.partial" / "__1_0.distcp").is_file()
    go_on(world, root, uninterrupted, 2, copies=2)
    go_on(world, root, uninterrupted, 1)
    of_two_copies, expected = (
        ShardedCheckpoint(run / "checkpoints" / "last.ckpt").whole()
        for run in (root.with_name("killed-2"), uninterrupted)
    )
    torch.testing.assert_close(of_two_copies["state_dict"], expected["state_dict"], atol=1e-4, rtol=0)
    states = [found["optimizer_states"][0]["state"] for found in (of_two_copies, expected)]
    torch.testing.assert_close(*states, atol=1e-4, rtol=0)


def test_it_is_exported_and_validated_on_one_device(uninterrupted: Path, world: Path, tmp_path: Path) -> None:
    last = uninterrupted / "checkpoints" / "last.ckpt"
    values = sharded(world, tmp_path, 1)
    rollout = {"class_path": "callbacks.LocalRollout", "init_args": {"eval_max_new_tokens": 3}}
    values["trainer"] |= {"limit_val_batches": 1, "callbacks": [rollout]}
    arguments = ["--config", written(values, tmp_path), "--ckpt_path", str(last)]
    with pytest.raises(SystemExit) as end:
        main(["export", *arguments, "--directory", str(tmp_path / "export")])
    assert end.value.code == 0
    validated = dict(main(["validate", *arguments]).model.student.hub_tensors())
    exported = load_file(tmp_path / "export" / "model.safetensors")
    for name, value in load_file(uninterrupted / "best" / "model.safetensors").items():
        assert torch.equal(exported[name], value) and torch.equal(validated[name], value), name


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "kill",
    [kill_in_save(4, 0), kill_in_save(2, 0), kill_at("optimizer", 0), kill_at("optimizer", 3), kill_at("batch_end", 4)],
    ids=["writing 4", "writing the first", "before anything", "step 3", "after 4"],
)
def test_killed_anywhere(uninterrupted: Path, world: Path, tmp_path: Path, kill: dict[str, Any]) -> None:
    root = tmp_path / "killed"
    killed(sharded(world, root, 2), root, kill)
    go_on(world, root, uninterrupted, 2, copies=2)
    go_on(world, root, uninterrupted, 1)
    of_two_copies, expected = (
        ShardedCheckpoint(run / "checkpoints" / "last.ckpt").whole()
        for run in (root.with_name("killed-2"), uninterrupted)
    )
    torch.testing.assert_close(of_two_copies["state_dict"], expected["state_dict"], atol=1e-4, rtol=0)
    states = [found["optimizer_states"][0]["state"] for found in (of_two_copies, expected)]
    torch.testing.assert_close(*states, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_from_one_rank_to_four_with_adapters(world: Path, tmp_path: Path) -> None:
    """One file of one rank is gone on from on two, their folder on four, that one on one."""
    whole, root = tmp_path / "whole", tmp_path / "run"
    fit(sharded(world, whole, 1, lora=True), whole)
    for steps, ranks in ((1, 1), (2, 2), (3, 4), (4, 1), (5, 2)):
        values = sharded(world, root, ranks, lora=True)
        values["trainer"]["max_steps"] = steps
        fit(values, root, "--ckpt_path", "last")
    assert_same(root, whole, world)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_file_of_sharded_weights(uninterrupted: Path, world: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    for steps in (3, STEPS):
        values = sharded(world, root, 2, one_file=True)
        values["trainer"]["max_steps"] = steps
        fit(values, root, "--ckpt_path", "last")
    assert (root / "checkpoints" / "last.ckpt").is_file()
    assert_same(root, uninterrupted, world)
