"""What there is can be asked without the seconds that Lightning takes to import."""

import subprocess
import sys
from pathlib import Path

import pytest

from cli.lightning_cli import SUBCOMMANDS as OF_LIGHTNING
from cli.overview import SUBCOMMANDS
from train import main

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "lightning", "transformers", "wandb", "scipy", "matplotlib")


def test_every_subcommand_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(SUBCOMMANDS) == [*OF_LIGHTNING, "plan", "export"]
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert all(f"    {name} " in text for name in SUBCOMMANDS)


@pytest.mark.parametrize("program", ["train.py", "-m mini", "-m evaluation", "-m mini.evaluation"])
def test_help_imports_nothing_that_takes_seconds(program: str) -> None:
    """Modules that were imported count, not seconds, which a busy machine makes long."""
    listed = [sys.executable, "-X", "importtime", *program.split(), "--help"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported and done.stdout.startswith("usage: ")
    assert not imported & set(HEAVY)
