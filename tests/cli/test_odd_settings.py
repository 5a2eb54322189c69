"""Settings that libraries answer with a traceback end in one sentence."""

import contextlib
import io
import sys
from pathlib import Path

import pytest
import torch

from callbacks.progress import bar_is_visible
from cli.config_files import ConfigError, check_yaml
from cli.error_messages import user_sentence
from cli.lightning_cli import check_checkpoint_class
from evaluation.__main__ import main as evaluate
from lightning_modules.student_training import LostGradients, refuse_lost_gradients
from runtime.errors import UserError, refuse_below
from train import main


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trainer: null\n", r"'trainer' has no options"),
        ("model: &m {init_args: *m}\n", r"a\.yaml:1: contains itself by an alias"),
        ("trainer: {callbacks: &c [{init_args: {inner: *c}}]}\n", r"a\.yaml:1: contains itself"),
    ],
)
def test_files(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=expected):
        check_yaml(str(tmp_path / "a.yaml"))


def test_an_alias_of_something_else_is_fine(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: {a: &m {b: 1}, c: *m, d: *m}\n")
    check_yaml(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_seeds(seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--config", "sft.yaml", f"--seed_everything={seed}"])
    assert f"seed_everything is {seed}: a number from 0 to 4294967295" in capsys.readouterr().err


@pytest.mark.parametrize("callbacks", ["null", '[{"class_path": "callbacks.RewardLogger"}]'])
def test_predictions_that_nobody_writes(callbacks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = [f"--trainer.default_root_dir={tmp_path}", f"--trainer.callbacks={callbacks}"]
    with pytest.raises(SystemExit):
        main(["predict", "--config", "teacher.yaml", *told])
    assert "nothing would be kept of what predict makes" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["cut", "junk", "pickle"])
def test_a_damaged_checkpoint_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(50_000)}}, path)
    content = path.read_bytes()
    path.write_bytes({"cut": content[:50_000], "junk": b"\x93junk" * 9000, "pickle": b"h\x01."}[kind])
    with pytest.raises(ConfigError, match=r"x\.ckpt is not readable as a checkpoint"):
        check_checkpoint_class(str(path), "lightning_modules.SFTModule")


def test_lost_gradients_are_one_sentence() -> None:
    with pytest.raises(FloatingPointError) as lost:
        refuse_lost_gradients([float("nan")], [3])
    assert isinstance(lost.value, LostGradients) and user_sentence(lost.value) is not None


@pytest.mark.parametrize("value", [-1, -1e-9, float("nan")])
def test_numbers_below(value: float) -> None:
    with pytest.raises(UserError, match=r"model\.lr is "):
        refuse_below(0, "model.", lr=value)
    refuse_below(0, "model.", lr=0.0)


def test_a_closed_output_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert not bar_is_visible()


@pytest.mark.parametrize("args", [["table", "x", "--resamples", "-3"], ["audit", "--threads", "0"]])
def test_counts_of_evaluation(args: list[str]) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit) as end:
        evaluate(args)
    assert end.value.code == 2 and "a number of 1 or more is needed" in said.getvalue()
