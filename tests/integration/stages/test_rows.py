"""Every row of the paper's tables has a configuration, and each of them runs on the synthetic world."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.config_files import CONFIG_FOLDER
from datamodules.prompts.questions import PROMPTS, TEACHER_PROMPTS
from evaluation.__main__ import main as scores
from evaluation.benchmarks import is_visual, read_questions
from evaluation.tables import read_paper
from mini.world.endpoints import OMNI, TEACHER, MiniEndpoints
from records.records import Prediction, read_jsonl
from tests.cli.test_configs import launch
from train import main

ROWS = CONFIG_FOLDER / "benchmark" / "rows"
QUOTED = {"audio-thinker-sft", "audio-thinker-grpo"}
"""Rows that the paper takes from another one."""

ASKED = [
    (row["name"], benchmark)
    for table in read_paper().values()
    for row in table["rows"]
    for benchmark in table["benchmarks"]
    if row["name"] not in QUOTED
]
BEYOND_THE_PAPER = {"gpt-4o-audio"}


def test_each_row_of_the_paper_has_a_configuration() -> None:
    assert {path.stem for path in ROWS.glob("*.yaml")} == {row for row, _ in ASKED} | BEYOND_THE_PAPER


def test_what_the_trained_rows_are_trained_by_exists() -> None:
    for row in {row for row, benchmark in ASKED if benchmark == "mmau"} - {"qwen2-audio-direct"}:
        values = yaml.safe_load((ROWS / f"{row}.yaml").read_text(encoding="utf-8"))
        folder = values["model"]["init_args"]["weights"].removesuffix("/best")
        stage = "grpo.yaml" if folder == "runs/grpo" else f"ablation/{Path(folder).name}.yaml"
        training = yaml.safe_load((CONFIG_FOLDER / stage).read_text(encoding="utf-8"))
        assert training["trainer"]["default_root_dir"] == folder
        asked = training.get("data", {}).get("init_args", {}).get("prompt", "think")
        assert values["data"]["init_args"]["prompt"] == asked, f"{row} is asked otherwise than it was trained"


@pytest.fixture(scope="module")
def place(world: Path, endpoints: MiniEndpoints, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with what the synthetic world changes: the data, the student, its rollouts in-process."""
    place = tmp_path_factory.mktemp("rows")
    for benchmark in ("avqa", "mmau", "music_avqa"):
        data: dict[str, Any] = {
            "root": f"{world}/corpus/{benchmark}",
            "num_workers": 0,
            "report_dir": f"{world}/report",
        }
        if benchmark == "music_avqa":
            data["instruments"] = ["drum", "flute", "violin", "piano"]
        trainer: dict[str, Any] = {"accelerator": "cpu", "precision": "32-true", "enable_progress_bar": False}
        write(place / f"endpoint-{benchmark}.yaml", {"trainer": trainer, "data": {"init_args": data}})
        values = {
            "trainer": trainer,
            "model": {"init_args": {"weights": f"{world}/student"}},
            "data": {"init_args": data | {"eval_batch_size": 8}},
        }
        write(place / f"student-{benchmark}.yaml", values)
    return place


def write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")


def run(place: Path, world: Path, endpoints: MiniEndpoints, row: str, benchmark: str) -> list[Prediction]:
    """Run a row's own command on the synthetic world, unless it has run; returns its predictions."""
    predictions = place / "runs" / "rows" / row / benchmark / "predictions.jsonl"
    if predictions.exists():
        return list(read_jsonl(predictions, Prediction))
    args = [
        arg.replace("benchmark/avqa.yaml", f"benchmark/{benchmark}.yaml")
        for arg in launch(Path("benchmark/rows") / f"{row}.yaml")
    ]
    if "benchmark/endpoint.yaml" in args:
        model = TEACHER if "-vl-" in row else OMNI
        more = [f"--model.init_args.endpoint.model={model}", f"--model.init_args.endpoint.base_url={endpoints.url}"]
        args += ["--config", f"endpoint-{benchmark}.yaml", *more]
    else:
        args += ["--config", "benchmark/in_process.yaml", "--config", f"student-{benchmark}.yaml"]
        args += ["--trainer.callbacks.eval_max_new_tokens=4"]
    if row == "qwen2-audio-cot-distill":
        write_traces(world, endpoints)
    main(args)
    return list(read_jsonl(predictions, Prediction))


def asked_ids(world: Path, benchmark: str) -> list[str]:
    questions = read_questions(benchmark, world / "corpus")
    return [question.id for question in questions if not is_visual(question)]


def write_traces(world: Path, endpoints: MiniEndpoints) -> None:
    main(
        [
            *launch(Path("teacher_val.yaml")),
            "--trainer.enable_progress_bar=false",
            f"--model.init_args.endpoint.base_url={endpoints.url}",
            f"--model.init_args.endpoint.model={TEACHER}",
            f"--data.init_args.root={world}/corpus/avqa",
            "--data.init_args.num_workers=0",
        ]
    )


@pytest.mark.parametrize(("row", "benchmark"), ASKED, ids=[f"{row} {benchmark}" for row, benchmark in ASKED])
def test_row_runs(
    place: Path, world: Path, endpoints: MiniEndpoints, row: str, benchmark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    found = run(place, world, endpoints, row, benchmark)
    assert [p.question_id for p in found] == asked_ids(world, benchmark)
    values = yaml.safe_load((ROWS / f"{row}.yaml").read_text(encoding="utf-8"))["data"]["init_args"]
    prompt = (PROMPTS | TEACHER_PROMPTS)[values["prompt"]]
    assert {p.prompt_version for p in found} == {prompt.identifier}
    assert (
        {p.modalities for p in found} == {values.get("requests", {}).get("modalities", "audio")} == {prompt.modalities}
    )
    if row.endswith("-audio") or row.endswith("-audio-video"):
        assert sum(p.correct is True for p in found) >= 5, "it hears"


def test_the_tables_show_every_row(
    place: Path, world: Path, endpoints: MiniEndpoints, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(place)
    for row, benchmark in ASKED:
        run(place, world, endpoints, row, benchmark)
    capsys.readouterr()
    runs = [f"{row}=runs/rows/{row}" for row in dict.fromkeys(row for row, _ in ASKED)]
    scores(["table", *runs, "--data", f"{world}/corpus", "--resamples", "50"])
    shown = capsys.readouterr().out
    for table in read_paper().values():
        for row in (row for row in table["rows"] if row["name"] not in QUOTED):
            line = next(line for line in shown.splitlines() if line.startswith(f"| {row['title']} |"))
            assert "[" in line.split("|")[-2], f"{row['name']} has no score: {line}"
