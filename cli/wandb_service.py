"""The process of Weights & Biases that keeps a run's records: each stage has one of its own."""

import os
import re

import wandb.env


def leave_inherited_service() -> None:
    """Forget the service of another process, which whoever started this one has left in the environment.

    A launcher that uses Weights & Biases itself (a notebook, a pipeline, a job that submits jobs) names its own. Such a
    service still holds the run of a stage that was killed, so that the next one cannot go on with it, and on another
    machine or after the launcher's end it is not there. What a sweep's agent sets (``WANDB_SWEEP_ID``,
    ``WANDB_RUN_ID`` and others) stays.
    """
    owner = re.match(r"\d+-(\d+)-", os.environ.get(wandb.env.SERVICE, ""))  # version, process, kind and address
    if owner is None or int(owner[1]) != os.getpid():
        os.environ.pop(wandb.env.SERVICE, None)
