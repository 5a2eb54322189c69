"""The run at Weights & Biases that a stage logs to."""

import os
import secrets
from pathlib import Path
from typing import Any

import wandb
from wandb.errors.term import termsetup

from cli.console import is_verbose
from runtime.all_ranks import is_rank_zero

RUN_ID = "wandb_run_id"
"""Name of the file that a resumed run finds the id in."""


def is_wandb(logger: Any) -> bool:
    """Tell whether a logger's configuration is that of Weights & Biases.

    Args:
        logger: The configuration.
    """
    return str(getattr(logger, "class_path", "")).endswith(".WandbLogger")


def name_wandb_run(logger: Any, file: Path, resumes: bool) -> None:
    """Let a resumed run go on in the Weights & Biases run of the interrupted one.

    Args:
        logger: A logger's configuration; changed in place when it is Weights & Biases' and names no run.
        file: Where the run's id is kept.
        resumes: False where a new run begins.
    """
    if not is_wandb(logger) or os.environ.get("WANDB_RUN_ID"):
        return
    if logger.init_args.get("id") or logger.init_args.get("version"):
        return
    if is_rank_zero() and not (resumes and file.is_file()):
        file.write_text(secrets.token_hex(4) + "\n", encoding="utf-8")
    if file.is_file():
        logger.init_args["id"] = file.read_text(encoding="utf-8").strip()


def silence_offline_wandb(logger: Any) -> None:
    """Let Weights & Biases say nothing about a run that it sends nowhere; where it lies is said at its end.

    Args:
        logger: A logger's configuration.
    """
    if is_wandb(logger) and logger.init_args.get("offline") and not is_verbose():
        os.environ.setdefault("WANDB_SILENT", "true")
        termsetup(wandb.Settings(silent=True), None)  # Lightning names a deprecated setting before wandb is set up
