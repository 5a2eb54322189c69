"""A home that cannot be written is no reason to speak of matplotlib."""

import os
import subprocess
import sys
from pathlib import Path

from runtime.matplotlib_folder import find_room

CODE = """
import importlib, os, sys
for package in ("cli", "callbacks", "evaluation", "mini", "benchmarks"):
    sys.modules.pop("runtime.matplotlib_folder", None)
    importlib.import_module(package)
    assert "runtime.matplotlib_folder" in sys.modules, package
assert "matplotlib" not in sys.modules
import matplotlib
assert matplotlib.get_cachedir() == os.environ["MPLCONFIGDIR"]
print(os.environ["MPLCONFIGDIR"])
"""


def test_matplotlib_finds_a_folder_and_says_nothing(tmp_path: Path) -> None:
    unset = {n: v for n, v in os.environ.items() if not n.startswith("XDG_") and n != "MPLCONFIGDIR"}
    environment = {**unset, "HOME": os.devnull, "TMPDIR": str(tmp_path)}
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", CODE], cwd=root, env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert Path(ran.stdout.strip()).parent == tmp_path and not list(tmp_path.iterdir()), "gone with the process"


def test_a_folder_that_can_be_written_or_is_named_stays(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    for variable in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    find_room()
    assert "MPLCONFIGDIR" not in os.environ
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    monkeypatch.setenv("MPLCONFIGDIR", "/mine")
    find_room()
    assert os.environ["MPLCONFIGDIR"] == "/mine"
