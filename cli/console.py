"""A console that says what runs, how far it is and what it found; ``--verbose`` shows what libraries say as well."""

import logging
import os
import sys
import warnings
from collections.abc import Mapping, MutableSequence
from pathlib import Path
from typing import Any

VERBOSE = "SIGHTSOUND_VERBOSE"
"""Environment variable that does what ``--verbose`` does, also for the processes that a run starts."""
_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric")
# Warnings about what is meant to be so: the frozen reference, DataLoaders with few workers, folders of a resumed run
_EXPECTED = (
    r"Found \d+ module\(s\) in eval mode",
    r".*does not have many workers",
    r"Checkpoint directory .* exists and is not empty",
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    r".*LeafSpec.*is deprecated",
    r"\.fit\(ckpt_path=.last.\) is set, but there is no last checkpoint",
)


def is_verbose() -> bool:
    """Return True when everything is to be shown."""
    return bool(os.environ.get(VERBOSE))


def take_verbose(args: MutableSequence[str]) -> None:
    """Take ``--verbose`` off a command line; it then holds for this process and those that it starts.

    A flag that has a value is left alone: ``validate`` and ``test`` have an option of the same name.

    Args:
        args: The arguments, changed in place.
    """
    for place in range(len(args) - 1, -1, -1):
        following = args[place + 1] if place + 1 < len(args) else "--"
        if args[place] == "--verbose" and following.startswith("-"):
            del args[place]
            os.environ[VERBOSE] = "1"


def quieten() -> None:
    """Keep what libraries say about themselves off the console, unless ``--verbose`` is on; their warnings stay."""
    if is_verbose():
        return
    for name in _LOGGERS:
        for handler in logging.getLogger(name).handlers:
            if not any(isinstance(known, _OursOrWarning) for known in handler.filters):
                handler.addFilter(_OursOrWarning())
    for message in _EXPECTED:
        warnings.filterwarnings("ignore", message=message)
    os.environ.setdefault("WANDB_QUIET", "true")
    if sys.stderr is None or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()


class _OursOrWarning(logging.Filter):
    """Lets pass what this project says, and warnings of all."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO or "site-packages" not in Path(record.pathname).parts


def metrics_line(stage: str, metrics: Mapping[str, Any]) -> str:
    """Return what a test or validation has found, in one line.

    Args:
        stage: Prefix of its metrics, ``val`` or ``test``.
        metrics: All metrics; shares of one are shown in percent.
    """
    found = {name.removeprefix(f"{stage}/"): float(value) for name, value in metrics.items() if name.startswith(stage)}
    shown = {n: f"{v:.0f}" if n == "questions" or v > 1 else f"{100 * v:.1f}%" for n, v in found.items()}
    parts = [f"{name.partition('/')[2]} {value}" for name, value in shown.items() if name.startswith("accuracy/")]
    accuracy = (
        [f"accuracy {shown['accuracy']}" + (f" ({', '.join(parts)})" if parts else "")] if "accuracy" in shown else []
    )
    others = [f"{name} {value}" for name, value in shown.items() if not name.startswith("accuracy")]
    return f"{stage}: {', '.join(accuracy + others)}"


def finish_wandb(status: int) -> None:
    """End the Weights & Biases run of this process, and say where it lies when it was not sent anywhere.

    Args:
        status: Exit status of the stage.
    """
    import wandb

    run = wandb.run
    if run is None:
        return
    folder = Path(run.dir).parent
    offline = run.offline
    run.finish(exit_code=status)
    if offline and not is_verbose():
        print(f"Weights & Biases: offline, in {folder}; `wandb sync` with that folder uploads it", flush=True)
