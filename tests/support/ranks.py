"""Processes that are forked from one which has imported everything: each costs what it does and not the imports."""

import contextlib
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

ROOT = Path(__file__).parents[2]
PRELOAD = [
    "train",
    "cli.command",
    "lightning_modules.grpo",
    "lightning_modules.sft",
    "lightning_modules.teacher",
    "lightning_modules.fact_verifier",
    "datamodules.traces",
    "callbacks.checkpoints.checkpointing",
    "callbacks.checkpoints.weights_export",
    "callbacks.rollout.local_rollout",
    "callbacks.rollout.vllm_rollout",
    "tests.support.ranks",
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def forked(target: Callable[..., object], *args: Any, log: Path, **variables: object) -> BaseProcess:
    """Start a function in a process of its own.

    Args:
        target: The function, of a module.
        *args: Its arguments.
        log: File that is given what it prints.
        **variables: Environment variables beside those of this process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with contextlib.chdir(ROOT):  # where its first start finds the modules
        forkserver.ensure_running()
    environment = dict(os.environ) | {name: str(value) for name, value in variables.items()}
    process = context.Process(target=_run, args=(target, args, log, environment))
    process.start()
    return process


def _run(target: Callable[..., object], args: tuple[Any, ...], log: Path, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with open(log, "ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    torch.set_num_threads(1)
    rank_zero_only.rank = int(environment.get("RANK") or environment.get("LOCAL_RANK") or 0)  # Lightning looked before
    target(*args)


def stage(args: list[str], folder: Path | None = None) -> None:
    """``train.py ARGS`` as a process's only work; the target of ``forked`` and ``run_ranks``."""
    from cli.ranks import end_with_launcher, run_rank
    from train import run

    sys.argv = ["train.py", *args]
    os.chdir(folder or ROOT)
    end_with_launcher()
    run_rank(run)


def start_ranks(target: Callable[..., object], *args: Any, folder: Path, ranks: int = 2) -> list[BaseProcess]:
    """Start the ranks of one run, as torchrun does: nobody watches over them. ``log-RANK`` is what a rank prints."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    names = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "test"}
    names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        forked(target, *args, log=folder / f"log-{rank}", RANK=rank, LOCAL_RANK=rank, **names) for rank in range(ranks)
    ]


def run_ranks(target: Callable[..., object], *args: Any, folder: Path, ranks: int = 2, seconds: float = 240) -> None:
    """Run a function on all ranks to its end.

    Args:
        target: The function, of a module.
        *args: Its arguments.
        folder: Where the ranks' logs are written.
        ranks: How many; one is a process without a launcher's environment.
        seconds: How long it may take.

    Raises:
        AssertionError: A rank has failed, or it took too long; with the end of what it said.
    """
    if ranks == 1:
        folder.mkdir(parents=True, exist_ok=True)
        processes = [forked(target, *args, log=folder / "log-0")]
    else:
        processes = start_ranks(target, *args, folder=folder, ranks=ranks)
    _wait(processes, folder, seconds)


def run_machines(args: list[str], folder: Path, machines: int = 2, seconds: float = 240) -> None:
    """Run ``train.py ARGS`` on nodes of one process each, as Lightning starts them from NODE_RANK, to the end.

    Raises:
        AssertionError: A machine has failed, or it took too long; with the end of what it said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cluster = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": machines}
    processes = [
        forked(stage, args, log=folder / f"log-{number}", NODE_RANK=number, **cluster) for number in range(machines)
    ]
    _wait(processes, folder, seconds)


def _wait(processes: list[BaseProcess], folder: Path, seconds: float) -> None:
    try:
        deadline = time.monotonic() + seconds
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        said = [(folder / f"log-{number}").read_text(errors="replace") for number in range(len(processes))]
        assert [process.exitcode for process in processes] == [0] * len(processes), "\n".join(s[-3000:] for s in said)
    finally:
        for process in processes:
            process.kill()
            process.join()
