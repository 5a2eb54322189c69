"""The commands that the results name run with next to nothing to do."""

import json
from pathlib import Path

import pytest

from benchmarks import corpus, decoding, growth, overlap, requests
from benchmarks.measuring.shapes import SHAPES
from tests.benchmarks.test_learner import WORLD

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]


def test_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sweeps = {f"completions of a {kind}prompt": (2, 3) for kind in ("", "short ")} | {"vocabulary": (1024,)}
    monkeypatch.setattr(growth, "SWEEPS", sweeps)
    monkeypatch.setattr(growth, "LARGEST_CONVENTIONAL", {"completions of a short prompt": 0, "vocabulary": 0})
    monkeypatch.setattr(growth, "SMALL", SHAPES["tiny"])
    monkeypatch.setattr(growth, "TOKENS", 4)
    monkeypatch.setattr(growth, "build_world", lambda: WORLD)
    growth.main(["--threads", "1", "--repeats", "1", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "growth.json").read_text())
    assert all(point["ours"] > 0 for points in found["sweeps"].values() for point in points)
    assert "| vocabulary |" in (tmp_path / "growth.md").read_text() and (tmp_path / "growth.png").exists()


def test_overlap(tmp_path: Path):
    overlap.main(
        ["--shape", "tiny", "--threads", "1", "--batches", "3", "--batch-size", "1", "--output", str(tmp_path)]
    )
    found = json.loads((tmp_path / "overlap.json").read_text())
    assert found["parts"]["serial"]["time/rollout"] >= found["server_seconds"] > 0
    assert "| overlapped |" in (tmp_path / "overlap.md").read_text()


def test_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decoding, "WARM_UP", 1)
    decoding.main(["--count", "2", "--output", str(tmp_path)])
    assert all(
        row["clips_per_second"] > 0 for row in json.loads((tmp_path / "decoding.json").read_text())["results"].values()
    )


def test_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpus, "FILM", 12)
    corpus.main(["--count", "3", "--output", str(tmp_path)])
    results = json.loads((tmp_path / "corpus.json").read_text())["results"]
    assert [row["clips"] for row in results] == [3, 30, 10]
    assert all(row["clips_per_second"] > 0 and row["peak_mb"] > 0 for row in results)


def test_requests(tmp_path: Path):
    requests.main(["--requests", "200", "--in-flight", "8", "--latency", "0.05", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "requests.json").read_text())
    assert found["written"] == 200 and 0 < found["stage_per_s"] <= found["bound_per_s"]
