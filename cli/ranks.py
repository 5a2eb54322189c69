"""The processes of a run on several devices: none stays behind."""

import os
import signal
from collections.abc import Callable
from typing import Any

import torch

from datamodules.parent_death import end_with_parent

LAUNCHER = "SIGHTSOUND_LAUNCHER"
"""Names the process that launched the other ranks of this machine."""

_SECONDS_TO_END = 10


def end_with_launcher() -> None:
    """Make a rank that the first one launched end when that one does, however it ends; call it in each process.

    The system sends SIGKILL to a process whose parent is gone (Linux), so not even a rank that waits for ever in a
    collective stays on its GPU.
    """
    local_rank = os.environ.get("LOCAL_RANK", "0")
    launcher = os.environ.get(LAUNCHER)
    launched = local_rank.isdigit() and int(local_rank) > 0 and launcher is not None
    if not launched and "TORCHELASTIC_RUN_ID" not in os.environ:
        os.environ[LAUNCHER] = str(os.getpid())
        return
    end_with_parent()
    if launched and os.getppid() != int(launcher or 0):  # it was gone before the system was asked
        os._exit(1)


def run_rank(main: Callable[[], Any]) -> None:
    """Run a stage as this process's whole life; where it fails among several ranks, see to it that the process ends.

    A process may hang in what the interpreter and NCCL tidy up while the other ranks, without this one, cannot.

    Args:
        main: The stage.
    """
    try:
        main()
    except BaseException:
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        if several and torch.distributed.get_world_size() > 1 and hasattr(signal, "alarm"):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_SECONDS_TO_END)
        raise
