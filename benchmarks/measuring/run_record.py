"""What a result needs beside it so that it can be judged and repeated."""

import contextlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"


def run_record(command: str) -> dict[str, Any]:
    """Return command, commit, machine, its load and the versions of what was measured."""
    commit = ""
    with contextlib.suppress(OSError):  # a machine without git
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        commit = found.stdout.strip()
    return {
        "command": command,
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_before": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "lightning")},
    }


def spread(values: list[float], digits: int = 3) -> dict[str, float]:
    """Return median, lowest and highest."""
    return {
        "median": round(median(values), digits),
        "lowest": round(min(values), digits),
        "highest": round(max(values), digits),
    }
