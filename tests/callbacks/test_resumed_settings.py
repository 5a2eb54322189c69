"""What is said when training goes on with other settings."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from callbacks import resumed_settings
from callbacks.resumed_settings import ResumedSettings, settings_of

FIT: Any = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING))
MODULE: Any = None


def settings(lr: float = 0.1, workers: int = 0, weights: str = "a", **trainer: Any) -> dict[str, Any]:
    return settings_of(
        {
            "seed_everything": 1,
            "model": {"class_path": "lightning_modules.SFTModule", "init_args": {"lr": lr, "weights": weights}},
            "data": {"class_path": "datamodules.avqa.AVQADataModule", "init_args": {"num_workers": workers}},
            "trainer": {"max_steps": 3, "callbacks": [], **trainer},
        }
    )


def said(then: dict[str, Any], now: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    infos: list[str] = []
    monkeypatch.setattr(resumed_settings, "rank_zero_info", infos.append)
    checkpoint: dict[str, Any] = {}
    ResumedSettings(then).on_save_checkpoint(FIT, MODULE, checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ResumedSettings(now).on_load_checkpoint(FIT, MODULE, checkpoint)
    return infos


def test_settings_are_plain_and_named_as_on_the_command_line() -> None:
    found = settings(lr=0.5, accumulate_grad_batches=2)
    assert (found["model"], found["model.lr"], found["trainer.accumulate_grad_batches"]) == ("SFTModule", 0.5, 2)
    assert "trainer.callbacks" not in found
    assert all(value is None or isinstance(value, (int, float, str)) for value in found.values())


def test_the_same_settings_and_more_steps_are_no_reason_to_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(settings(), settings(), monkeypatch) == []
    (sentence,) = said(settings(), settings(workers=4, max_steps=9), monkeypatch)
    assert "data.num_workers 0 -> 4, trainer.max_steps 3 -> 9): the new values count" in sentence


def test_what_is_trained_otherwise_is_a_warning() -> None:
    checkpoint: dict[str, Any] = {}
    ResumedSettings(settings()).on_save_checkpoint(FIT, MODULE, checkpoint)
    with pytest.warns(UserWarning, match=r"model.lr 0.1 -> 0.5, model.weights a -> b\): .*the checkpoint's all"):
        ResumedSettings(settings(lr=0.5, weights="b")).on_load_checkpoint(FIT, MODULE, checkpoint)


def test_an_older_checkpoint_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    infos: list[str] = []
    monkeypatch.setattr(resumed_settings, "rank_zero_info", infos.append)
    ResumedSettings(settings()).on_load_checkpoint(FIT, MODULE, {})
    assert "does not say which settings it was trained with" in infos[0]
