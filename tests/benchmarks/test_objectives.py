"""The comparison of objectives: its figures by hand."""

import json
from pathlib import Path

import pytest

from benchmarks import objectives
from cli.config_files import CONFIG_FOLDER
from mini.world.claims import mentioned
from records.records import Prediction, write_jsonl
from runtime.errors import UserError


def test_each_arm_is_configured() -> None:
    assert all((CONFIG_FOLDER / file).is_file() for files in objectives.ARMS.values() for file in files)


def test_rollouts_by_hand(tmp_path: Path) -> None:
    run = tmp_path / "grpo"
    (run / "metrics").mkdir(parents=True)
    (run / "fit.yaml").write_text("{data: {init_args: {batch_size: 3}}, model: {init_args: {num_completions: 2}}}")
    metrics = run / "metrics" / "metrics.csv"
    head = "step,train/completion_length,train/frac_reward_zero_std,train/wasted_tokens,val/accuracy\n"
    metrics.write_text(head + "0,10.0,0.5,,\n1,20.0,0.25,,\n1,,,,0.5\n")
    # 6 completions a step: 60 and 120 tokens, of which a half and a quarter say nothing
    assert objectives.rollouts(metrics) == {"completion_length": 15, "rollout_tokens": 180, "wasted_tokens": 60}
    metrics.write_text(head + "0,10.0,0.5,70,\n")
    # 30 of the 60 tokens that were kept say nothing, and 40 were thrown away before
    assert objectives.rollouts(metrics) == {"completion_length": 10, "rollout_tokens": 100, "wasted_tokens": 70}


def test_table_by_hand() -> None:
    names = objectives.COLUMNS
    results = {
        "grpo": {0: dict.fromkeys(names, 0.5), 1: dict.fromkeys(names, 0.7)},
        "gspo": {0: dict.fromkeys(names, 1)},
    }
    lines = objectives.table(results).splitlines()
    # two values 0.2 apart: deviation 0.141, over the root of two 0.1, times 12.706
    assert lines[2].startswith("| grpo | 2 | 60.0 ± 127.1 | 60.0 ± 127.1 |")
    assert lines[3].startswith("| gspo | 1 | 100.0 | 100.0 | 100.0 | 1.0 | 0.0 | 0.0 |")


def test_claims_of_the_world(world: Path, tmp_path: Path) -> None:
    from datamodules.avqa import AVQADataModule

    corpus = world / "corpus" / "avqa"
    questions = AVQADataModule(str(corpus), validate_media=False).questions("test")
    traces = {
        line["question_id"]: line["reasoning"]
        for line in map(json.loads, (world / "corpus" / "traces.jsonl").read_text().splitlines())
    }
    assert any(mentioned(thought) for thought in traces.values())
    saying = [
        f"<think>{text}</think><answer>x</answer>" for text in ("", "I hear a dog, a bell and a siren and no dog.")
    ]
    said = [
        Prediction(question.id, completion, None, None, None, "", question.options, True)
        for question in questions[:4]
        for completion in saying
    ]
    write_jsonl(tmp_path / "predictions.jsonl", said)
    assert objectives.true_claims(tmp_path / "predictions.jsonl", corpus) == 0  # nothing said, or what cannot be


def test_without_a_finished_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `make mini` first"):
        objectives.main(["--mini", str(tmp_path), "--output", str(tmp_path / "out")])
