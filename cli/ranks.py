"""The processes of a run on several devices: none stays behind, and none is cut off while it ends in order."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from typing_extensions import override

from runtime.lightning_internals import SubprocessLauncher
from runtime.parent_death import end_with_parent

LAUNCHER = "SIGHTSOUND_LAUNCHER"
"""Names the process that launched the other ranks of this machine."""

SECONDS_TO_END = 15.0
"""What launched ranks get to end after the first one has failed or was told to end."""

_SECONDS_UNASKED = 5.0
"""How long they have to end by themselves before they are told to, as one must be that is only just starting."""

_launched: list[subprocess.Popen[bytes]] = []


class RankLauncher(SubprocessLauncher):
    """Lightning's launcher of the other ranks of a machine, without its observer.

    The observer answers the end of a rank with SIGKILL to all others and to the first one, whatever they are writing.

    Args:
        launcher: Lightning's own.
        lost: Called in a thread when a launched rank has ended in failure, with its rank and its exit status.
    """

    def __init__(self, launcher: SubprocessLauncher, lost: Callable[[int, int], None]) -> None:
        super().__init__(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes)
        self._lost = lost

    @override
    def _call_children_scripts(self) -> None:
        super()._call_children_scripts()
        _launched.extend(self.procs)
        self.procs = []  # whom the observer is given to watch
        threading.Thread(target=self._watch, name="launched ranks", daemon=True).start()

    @override
    def kill(self, signum: int) -> None:
        _signal(_launched, signum)

    def _watch(self) -> None:
        first = self.cluster_environment.node_rank() * self.num_processes + 1
        codes: list[int | None] = [None]
        while None in codes:
            codes = [process.poll() for process in _launched]
            for number, code in enumerate(codes):
                if code:
                    self._lost(first + number, _exit_status(code))
                    return
            time.sleep(0.2)


def end_with_launcher() -> None:
    """Make a rank that the first one launched end when that one does, however it ends; call it in each process.

    The system sends SIGKILL to a process whose parent is gone (Linux), so not even a rank that waits for ever in a
    collective stays on its GPU.
    """
    if not is_launched() and "TORCHELASTIC_RUN_ID" not in os.environ:
        os.environ[LAUNCHER] = str(os.getpid())
        return
    end_with_parent()
    if is_launched() and os.getppid() != int(os.environ[LAUNCHER]):  # it was gone before the system was asked
        os._exit(1)


def is_launched() -> bool:
    """Tell whether the first rank of this machine has started this process."""
    local_rank = os.environ.get("LOCAL_RANK", "0")
    return local_rank.isdigit() and int(local_rank) > 0 and LAUNCHER in os.environ


def run_rank(main: Callable[[], Any]) -> None:
    """Run a stage as this process's whole life; where it fails among several ranks, see to it that the process ends.

    A process may hang in what the interpreter and NCCL tidy up while the other ranks, without this one, cannot.
    The first rank is the last to end, since those that it has launched end with it.

    Args:
        main: The stage.
    """
    try:
        main()
    except BaseException as error:
        if not _launched and not _among_several():
            raise
        status = 1
        if isinstance(error, SystemExit) and not isinstance(error.code, str):
            status = error.code or 0
        else:
            sys.excepthook(type(error), error, error.__traceback__)
        leave(status)
    if is_launched():
        leave(0)  # the first one waits
    for number, process in enumerate(_launched, start=1):  # without a limit: their work may be longer than ours
        if status := process.wait():
            sys.exit(f"train.py: local rank {number} ended with status {_exit_status(status)}, see above")


def leave(status: int) -> None:
    """End the process now: taking a large program apart in order takes seconds that nobody needs any more.

    Args:
        status: The exit status.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # one more does not wait for anything
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        child.kill()
    end_launched()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def end_launched(seconds: float = SECONDS_TO_END) -> None:
    """Wait for the ranks that this process has launched, which write what they have, and end those that do not end.

    Args:
        seconds: How long to wait.
    """
    begun = time.monotonic()
    told = False
    while (left := [process for process in _launched if process.poll() is None]) and (
        waited := time.monotonic() - begun
    ) < seconds:
        if waited > _SECONDS_UNASKED and not told:
            _signal(left, signal.SIGTERM)
            told = True
        time.sleep(0.05)
    if left:
        numbers = ", ".join(str(number) for number, process in enumerate(_launched, start=1) if process in left)
        print(
            f"train.py: killed after {seconds:.0f} s in which they did not end: local ranks {numbers}",
            file=sys.stderr,
            flush=True,
        )
        _signal(left, signal.SIGKILL)


def _signal(processes: list[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)  # none to one that has ended


def _exit_status(code: int) -> int:
    """Return the status as shells have it, of a code as Popen has it."""
    return 128 - code if code < 0 else code


def _among_several() -> bool:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return distributed and torch.distributed.get_world_size() > 1
