"""The peers' rows, with stand-ins for their environments."""

import json
from pathlib import Path

import pytest

from benchmarks.peers.__main__ import main
from tests.benchmarks.test_learner import SMALL

PEER = """#!/bin/sh
echo "$0 $@" >> {log}
case "$1" in *swift_steps.py) echo '[600, 400, 500]';; *) echo '{{"arguments": [], "hears": false}}';; esac
"""


@pytest.fixture
def environments(tmp_path: Path) -> Path:
    for name in ("swift", "trl"):
        python = tmp_path / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(PEER.format(log=tmp_path / "log"))
        python.chmod(0o755)
    return tmp_path


@pytest.mark.integration
def test_peers_stand_beside_our_steps(environments: Path, one_thread: None):
    output = environments / "results"
    arguments = ["--tasks", "grpo", "--rounds", "1", "--no-memory", "--output", str(output)]
    main([str(environments), *SMALL, *arguments])
    report = json.loads((output / "learner.json").read_text())
    (row,) = report["peers"]
    assert (row["name"], row["seconds"]) == ("ms-swift, grpo", 500) and row["ratio"]["lowest"] > 10
    assert report["results"]["grpo"]["ours"]["seconds"] and report["command"].startswith("python -m benchmarks.peers ")
    text = (output / "learner.md").read_text()
    assert "| ms-swift, grpo | 500.00 |" in text and "TRL's learner does not get the audio" in text
    calls = (environments / "log").read_text().splitlines()
    names = [Path(call.partition(".py")[0]).name + ".py" for call in calls]
    assert names == ["swift_steps.py", "swift_steps.py", "trl_hears.py"]
    settings = json.loads(calls[0].split(" grpo ")[1])
    assert settings == {"data": f"{environments}/data", "steps": 1, "threads": 1, "group": 2, "tokens": 8, "batch": 2}
    first = json.loads((environments / "data" / "grpo.jsonl").read_text().splitlines()[0])
    assert Path(first["audios"][0]).is_file() and (environments / "data" / "model" / "config.json").is_file()


def test_without_environments_it_says_how_to_make_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert f"{tmp_path} has no environment swift: make them with benchmarks/peers/install.sh" in capsys.readouterr().err
