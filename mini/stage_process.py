"""A stage of the pipeline as a process of its own, which ends with the pipeline and with the server that it needs."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from inference.vllm_server import VLLMServer
from runtime.errors import UserError
from runtime.parent_death import end_with_parent

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 10.0
"""What a stage has to write its checkpoint after SIGTERM."""
console = Console(soft_wrap=True)


def say(line: str) -> None:
    """Print a line of progress at once."""
    console.print(line, highlight=False, markup=False)


def run_stage(
    name: str,
    arguments: Sequence[str],
    server: VLLMServer | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run Python with arguments from the repository's root, and wait.

    The process leads a group of its own, so that Ctrl-C reaches the pipeline alone, which then ends the stage.

    Args:
        name: What it is called in messages.
        arguments: What follows ``python``.
        server: The stage is ended when this server ends.
        environment: Variables beside those of this process.

    Raises:
        UserError: It failed and has said why, or the server ended.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | dict(environment or {}),
        process_group=0,
        preexec_fn=end_with_parent,
    )
    try:
        while process.poll() is None:
            if server is not None and server.process is not None and server.process.poll() is not None:
                raise UserError(
                    f"{name} was stopped: the vLLM server ended with status {server.process.returncode}, see "
                    f"{server.log_file}"
                )
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
    finally:
        _end(process)
    if process.returncode:
        raise UserError(f"{name} ended with status {process.returncode}, see above")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process group: SIGTERM, and SIGKILL for what is left after some patience."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
