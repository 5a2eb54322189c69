"""The main job, small: everything runs to its end, and after an interruption anywhere ``--resume`` ends alike."""

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from mini.evaluation import BENCHMARKS, PROBES, STUDENTS
from mini.pipeline import Pipeline, Stage
from runtime.errors import UserError

pytestmark = pytest.mark.timeout(1800)
ROOT = Path(__file__).parents[3]
TINY = ("--scale", "tiny")
SERVER = "server"
"""Kills the vLLM server in place of sending the pipeline a signal."""


def start(output: Path, *extra: str) -> subprocess.Popen[bytes]:
    """Start the pipeline as from a terminal: a process group of its own."""
    command = [sys.executable, "-m", "mini", *TINY, "--output", str(output), *extra]
    with open(output.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def finish(output: Path, *extra: str) -> str:
    """Run the pipeline to its end and return what it printed."""
    process = start(output, *extra)
    status = process.wait(1500)
    said = output.with_suffix(".log").read_text()
    assert status == 0, said[-4000:]
    return said


def results(output: Path) -> dict[str, object]:
    """Return everything that must not depend on interruptions: accuracies, each prediction, each student's weights."""
    predictions = {
        str(file.parent.relative_to(output)): sorted(
            (row["question_id"], row["completion"]) for row in map(json.loads, file.read_text().splitlines())
        )
        for file in sorted((output / "benchmark").rglob("predictions.jsonl"))
    }
    weights = {
        name: hashlib.sha256((output / name / "best" / "model.safetensors").read_bytes()).hexdigest()
        for name in STUDENTS
        if name != "untrained"
    }
    return {"done": json.loads((output / "progress.json").read_text())["done"], "predictions": predictions} | weights


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return a pipeline's process and all that it has started."""
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def alive(processes: list[psutil.Process]) -> list[str]:
    """Return the command lines of those that still run."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


def until(condition: Callable[[], object], seconds: float, what: Callable[[], str]) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    output = tmp_path_factory.mktemp("pipeline") / "whole run"
    return output, finish(output)


@pytest.mark.server
def test_the_whole_pipeline_runs_to_its_end(uninterrupted: tuple[Path, str]):
    output, said = uninterrupted
    done = json.loads((output / "progress.json").read_text())["done"]
    assert done["benchmarks"].keys() == STUDENTS.keys()
    assert all(row.keys() == BENCHMARKS.keys() for row in done["benchmarks"].values())
    assert done["can it hear?"].keys() == set(PROBES)
    predictions = results(output)["predictions"]
    assert len(predictions) == 3 * len(STUDENTS) + len(PROBES) and all(predictions.values())
    for line in ("Accuracy in % on the synthetic world", *STUDENTS.values(), "can it hear?", "mean reward in GRPO"):
        assert line in said
    page = (output / "report" / "report.html").read_text()
    assert all(title in page for title in STUDENTS.values())
    assert (output / "grpo" / "wandb").is_dir()


@pytest.mark.server
def test_the_console_is_quiet(uninterrupted: tuple[Path, str]):
    """No advertisement, no table of modules, no summary of a logger; one line of each kind where one is enough."""
    _, said = uninterrupted
    for noise in (
        "Tip:",
        "litlogger",
        "GPU available",
        "Run history",
        "Modules in train mode",
        "Loading weights",
        "wandb:",
    ):
        assert noise not in said
    now_and_then = ("step ", "predict batch", "validation batch", "corpus:", "vLLM server: starting since", "Rollouts:")
    assert sum(not line.startswith(now_and_then) for line in said.splitlines()) < 200
    assert said.count("vLLM server: ready") == said.count("vLLM server: starting on") == 1


# Title of each stage; what shows that it is in its middle, below the run's folder; how many of that there must be
CORPUS = ("corpus and student", ".corpus.partial/avqa/videos/*.mp4", 5)
TEACHER = ("teacher", "teacher/traces/*.jsonl", 1)
VERIFY = ("verify", "verify/verdicts/*.jsonl", 1)
SFT = (STUDENTS["sft"], "sft/checkpoints/last.ckpt", 1)
AGFV = (STUDENTS["agfv"], "agfv/checkpoints/last.ckpt", 1)
TTS = (STUDENTS["tts"], "tts/checkpoints/last.ckpt", 1)
GRPO = ("GRPO", "grpo/checkpoints/last.ckpt", 1)
BENCH = ("benchmarks", "benchmark/*/*/predictions.jsonl", 4)
PROBED = ("can it hear?", "benchmark/grpo/avqa-*/predictions.jsonl", 1)
INT, TERM, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGKILL
CHAINS = [
    [(CORPUS, KILL), (TEACHER, INT), (VERIFY, TERM), (SFT, KILL), (GRPO, SERVER), (BENCH, KILL)],
    [
        *((CORPUS, INT), (TEACHER, TERM), (VERIFY, KILL), (SFT, INT), (AGFV, TERM), (TTS, KILL), (GRPO, INT)),
        *((GRPO, KILL), (BENCH, TERM), (BENCH, SERVER), (PROBED, INT)),
    ],
    [
        *((CORPUS, TERM), (TEACHER, KILL), (VERIFY, INT), (SFT, TERM), (AGFV, KILL), (TTS, INT), (GRPO, TERM)),
        *((BENCH, INT), (PROBED, TERM), (PROBED, KILL)),
    ],
    [(AGFV, INT), (TTS, TERM), (PROBED, SERVER)],
]
"""Together each stage with each way in which it can be interrupted."""


@pytest.mark.server
@pytest.mark.parametrize(
    "chain",
    [CHAINS[0], *(pytest.param(chain, marks=pytest.mark.slow) for chain in CHAINS[1:])],
    ids=range(len(CHAINS)),
)
def test_resumes_after_any_interruption(uninterrupted: tuple[Path, str], tmp_path: Path, chain: list[Any]):
    whole, _ = uninterrupted
    output = tmp_path / "interrupted"
    for number, ((stage, sign, count), how) in enumerate(chain):
        process = start(output, *(["--resume"] if number else []))
        known = {path: path.stat().st_mtime_ns for path in output.glob(sign)}

        def in_its_middle() -> bool:
            assert process.poll() is None, f"{stage}: {output.with_suffix('.log').read_text()[-4000:]}"  # noqa: B023
            fresh = [p for p in output.glob(sign) if known.get(p) != p.stat().st_mtime_ns]  # noqa: B023
            return len(list(output.glob(sign))) >= count and bool(fresh)  # noqa: B023

        until(in_its_middle, 300, lambda: f"{stage} has not come to its middle")  # noqa: B023
        everybody = family(process)
        if how == SERVER:
            server = next(found for found in everybody if "vllm.entrypoints" in " ".join(found.cmdline()))
            os.killpg(server.pid, KILL)
        elif how == INT:
            os.killpg(process.pid, INT)  # Ctrl-C
        else:
            process.send_signal(how)
        status = process.wait(60)
        said = output.with_suffix(".log").read_text()
        assert status == {INT: 130, TERM: 143, KILL: -KILL, SERVER: 1}[how], said[-4000:]
        assert "Traceback" not in said, said[-4000:]
        if how != KILL:
            assert "--resume` goes on from there" in said.splitlines()[-1]
        until(lambda: not alive(everybody), 60, lambda: f"{stage}: {how!r} has left {alive(everybody)}")  # noqa: B023
        done = json.loads((output / "progress.json").read_text())["done"] if number else {}
        assert stage not in done, f"{stage} had ended before it could be interrupted"
    finish(output, "--resume")
    assert results(output) == results(whole)


def test_other_settings_are_refused(tmp_path: Path):
    (tmp_path / "progress.json").write_text('{"settings": {"scale": "standard", "seed": 0}, "done": {}}')
    command = [sys.executable, "-m", "mini", "--output", str(tmp_path), "--seed", "1", "--resume"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "holds a run with scale standard, seed 0" in ended.stderr and "Traceback" not in ended.stderr


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A pipeline that would write where stages of the real job have written."""
    monkeypatch.setenv("SIGHTSOUND_MINI", "")
    return Pipeline(tmp_path / "runs", scale="tiny")


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("folder", ["grpo", "teacher", "benchmark", "student"])
def test_folders_of_others_are_left_alone(pipeline: Pipeline, folder: str, resume: bool):
    """``--output runs`` would replace ``runs/grpo``, weeks of a GPU's work."""
    weights = pipeline.output / folder / "best" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    with pytest.raises(UserError, match=f"{folder} is there without progress.json beside it.* --output"):
        pipeline.run(resume)
    assert weights.read_bytes() == b"weights"


@pytest.mark.parametrize("text", ["", "[]", '{"epoch": 3}', '{"settings": 1, "done": {}}'])
def test_a_progress_file_of_others_is_left_alone(pipeline: Pipeline, text: str):
    pipeline.output.mkdir()
    pipeline.progress.path.write_text(text)
    for resume in (False, True):
        with pytest.raises(UserError, match=r"progress\.json (cannot be read|is of another program).*--output"):
            pipeline.run(resume)
    assert pipeline.progress.path.read_text() == text


def test_own_folders_are_replaced_and_what_was_begun_is_known(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pipeline, "_stages", dict)
    pipeline.run()
    for folder in ("grpo", "student"):  # killed before the first stage was done
        (pipeline.output / folder).mkdir()
    pipeline.run(resume=True)
    assert (pipeline.output / "grpo").is_dir()
    pipeline.run()
    assert not (pipeline.output / "grpo").exists() and (pipeline.output / "student").is_dir()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SIGHTSOUND_MINI", "")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/below cannot be made .* set --output"):
        Pipeline(tmp_path / "file" / "below").run()


def test_each_stage_says_which_it_is_and_how_long_it_took(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(pipeline, "_plan", lambda: [Stage("first", lambda: 1), Stage("benchmarks", dict)])
    monkeypatch.setattr(pipeline, "_show", lambda accuracies: None)
    monkeypatch.setattr("mini.pipeline.write_report", lambda *_: None)
    pipeline.run()
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("The whole paper on a synthetic world (scale tiny, seed 0): 2 to 3 minutes")
    assert said[1:3] == ["2 stages: first, benchmarks", f"All of it is written to {pipeline.output}"]
    assert [re.sub(r": \d+ s$", " took seconds", line.strip("─ ")) for line in said[3:-1]] == [
        *("stage 1 of 2: first", "stage 1 of 2: first took seconds"),
        *("stage 2 of 2: benchmarks", "stage 2 of 2: benchmarks took seconds"),
    ]
    pipeline.run(resume=True)
    assert capsys.readouterr().out.splitlines()[3:5] == [
        "stage 1 of 2: first: was done before",
        "stage 2 of 2: benchmarks: was done before",
    ]
