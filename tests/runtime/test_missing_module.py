"""Programs that are started with another Python than the environment's say which one is meant."""

import subprocess
import sys
from pathlib import Path

import pytest

from runtime.missing_module import way_out

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "program",
    [
        "train.py fit --config sft.yaml",
        "-m mini",
        "-m evaluation defects",
        "-m benchmarks.growth",
        "-m inference.vllm_server",
    ],
)
def test_one_sentence_names_the_environment(program: str) -> None:
    """Python without site-packages, as the system's is."""
    bare = [sys.executable, "-S", "-E", *program.split()]
    done = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert f"`.venv/bin/python -S -E {program}`" in done.stderr


def test_where_nothing_is_installed_yet_that_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("runtime.missing_module.ENVIRONMENT", tmp_path / ".venv")
    monkeypatch.chdir(tmp_path)
    assert way_out("torch.nn", ["python3", "train.py", "fit"]) == (
        "python3 is not this project's environment, it has no module torch: `make env` installs it, then "
        "`.venv/bin/python train.py fit`"
    )
