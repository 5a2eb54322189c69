"""Predictions on disk: all of them, each once, also when the run was interrupted."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from records.records import Prediction, read_jsonl
from tests.support.counting_rollout import CountingRollout, Interrupted
from train import main

pytestmark = pytest.mark.integration  # whole runs


def evaluate(world: Path, root: Path, *more: str, stage: str = "test", writer_last: bool = False) -> Any:
    values: dict[str, Any] = {
        "trainer": {
            "default_root_dir": str(root),
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "callbacks": [
                {
                    "class_path": "callbacks.PredictionWriter",
                    "init_args": {
                        "path": "${trainer.default_root_dir}/out/predictions.jsonl",
                        "resume": "${oc.env:SIGHTSOUND_RESUME,false}",  # as in configs/benchmark
                    },
                },
                {"class_path": "tests.support.counting_rollout.CountingRollout"},
            ],
        },
        "model": {"class_path": "lightning_modules.AudioQAModule", "init_args": {"weights": f"{world}/student"}},
        "data": {
            "class_path": "datamodules.AVQADataModule",
            "init_args": {
                "root": f"{world}/corpus/avqa",
                "processor": "${model.init_args.weights}",
                "prompt": "think-short",
                "eval_batch_size": 2,
                "num_workers": 0,
                "report_dir": f"{world}/report",
                "predict_split": "val",
            },
        },
    }
    if writer_last:
        values["trainer"]["callbacks"].reverse()
    root.mkdir(exist_ok=True)
    (root / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return main([stage, "--config", str(root / "config.yaml"), *more])


def read(root: Path) -> list[Prediction]:
    return list(read_jsonl(root / "out" / "predictions.jsonl", Prediction))


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_all_predictions_are_written_once(world: Path, tmp_path: Path, stage: str) -> None:
    cli = evaluate(world, tmp_path, stage=stage)
    found = read(tmp_path)
    assert found == cli.model.predictions
    assert [p.question_id for p in found] == [q.id for q in cli.datamodule.questions("val")] and len(found) == 6
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["predictions.jsonl"]
    if stage != "predict":
        name = {"validate": "val", "test": "test"}[stage]
        correct = [p.correct for p in found]
        assert float(cli.trainer.callback_metrics[f"{name}/accuracy"]) == pytest.approx(sum(correct) / len(correct))


def interrupted(world: Path, root: Path) -> list[Prediction]:
    whole = evaluate(world, root.with_name("whole")).model.predictions
    with pytest.raises(Interrupted):
        evaluate(world, root, "--trainer.callbacks.fail_after=4")
    shard = root / "out" / "predictions.jsonl.rank0"
    assert list(read_jsonl(shard, Prediction)) == whole[:4]
    with open(shard, "a", encoding="utf-8") as lines:
        lines.write(whole[4].to_json()[:40])  # the kill came in the middle of a line
    return whole


@pytest.mark.parametrize("writer_last", [False, True])
def test_answered_questions_are_not_asked_again(world: Path, tmp_path: Path, monkeypatch, writer_last: bool) -> None:
    whole = interrupted(world, tmp_path / "run")
    monkeypatch.setenv("SIGHTSOUND_RESUME", "true")
    cli = evaluate(world, tmp_path / "run", writer_last=writer_last)
    assert CountingRollout.asked == 2
    assert read(tmp_path / "run") == whole == cli.model.predictions


def test_without_resume_everything_is_asked(world: Path, tmp_path: Path) -> None:
    whole = interrupted(world, tmp_path / "run")
    evaluate(world, tmp_path / "run")
    assert CountingRollout.asked == 6
    assert read(tmp_path / "run") == whole


def test_a_broken_shard_is_named(world: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    interrupted(world, tmp_path / "run")
    shard = tmp_path / "run" / "out" / "predictions.jsonl.rank0"
    shard.write_text('{"schema": "trace/1"}\n')
    monkeypatch.setenv("SIGHTSOUND_RESUME", "true")
    with pytest.raises(SystemExit):
        evaluate(world, tmp_path / "run")
    assert "predictions.jsonl.rank0:1: expected schema 'prediction/1'" in capsys.readouterr().err


def test_predictions_say_what_was_done_to_the_audio(world: Path, tmp_path: Path) -> None:
    evaluate(world, tmp_path, "--data.init_args.probe=silence", "--data.init_args.option_order=1")
    plain = evaluate(world, tmp_path.with_name("plain")).model.predictions
    found = read(tmp_path)
    assert {p.probe for p in found} == {"silence"} and {p.probe for p in plain} == {""}
    assert [sorted(p.options) for p in found] == [sorted(p.options) for p in plain]
    assert [p.options for p in found] != [p.options for p in plain]
    assert [p.options[p.answer] for p in found] == [p.options[p.answer] for p in plain]


@pytest.mark.parametrize("change", ["--data.init_args.probe=noise", "--data.init_args.option_order=1"])
def test_answers_to_other_audio_or_options_are_not_taken_over(
    world: Path, tmp_path: Path, capsys, monkeypatch, change: str
) -> None:
    interrupted(world, tmp_path / "run")
    monkeypatch.setenv("SIGHTSOUND_RESUME", "true")
    with pytest.raises(SystemExit):
        evaluate(world, tmp_path / "run", change)
    assert "was answered before with other options or with other audio" in capsys.readouterr().err


def test_answers_to_another_prompt_are_not_taken_over(world: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    interrupted(world, tmp_path / "run")
    monkeypatch.setenv("SIGHTSOUND_RESUME", "true")
    with pytest.raises(SystemExit):
        evaluate(world, tmp_path / "run", "--data.init_args.prompt=direct-short")
    assert "answered before with prompt_version 'think-short/1', now it is 'direct-short/1'" in capsys.readouterr().err


def test_predictions_say_who_was_asked_and_how(world: Path, tmp_path: Path) -> None:
    evaluate(world, tmp_path)
    how = {(p.model, p.prompt_version, p.modalities) for p in read(tmp_path)}
    assert how == {(f"{world}/student", "think-short/1", "audio")}


def test_questions_without_an_answer_are_predicted_and_not_scored(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MMAU's full test set tells no answers: predictions are written, no accuracy is invented, nothing is validated."""
    rows = json.loads((world / "corpus" / "mmau" / "mmau-test-mini.json").read_text())[:4]
    full = tmp_path / "mmau-full.json"
    data = [
        "--data=datamodules.MMAUDataModule",
        f"--data.init_args.root={world}/corpus/mmau",
        f"--data.init_args.annotations={full}",
    ]
    full.write_text(json.dumps([row | {"answer": ""} for row in rows]))
    cli = evaluate(world, tmp_path, *data)
    found = read(tmp_path)
    assert [(p.question_id, p.answer, p.correct) for p in found] == [
        (f"mmau/full/{row['id']}", None, None) for row in rows
    ]
    metrics = cli.trainer.callback_metrics
    assert not any("accuracy" in name for name in metrics)
    assert (float(metrics["test/without_answer"]), float(metrics["test/questions"])) == (4, 4)

    with pytest.raises(SystemExit):
        evaluate(world, tmp_path, *data, stage="validate")
    assert "none of the 4 questions for validation has an answer" in capsys.readouterr().err
