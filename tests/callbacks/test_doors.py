"""A module that does not fit a callback is refused at the start, in one sentence."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.rollout.local_rollout import LocalRollout
from callbacks.rollout.vllm_rollout import VLLMRollout
from callbacks.tracking.completion_table import CompletionTable
from callbacks.tracking.reward_logger import RewardLogger
from callbacks.writers.prediction_writer import PredictionWriter
from callbacks.writers.record_writer import RecordWriter
from callbacks.writers.remote_prediction_writer import RemotePredictionWriter
from callbacks.writers.yield_report import YieldReport
from lightning_modules.doors import AnsweringModule, GradedRollouts, RecordStage, RolloutModule
from records.records import Prediction
from runtime.errors import UserError


class Stranger(LightningModule):
    """Fits nothing."""


class Remote(AnsweringModule):
    """Answers through an endpoint."""

    asks_endpoint = True


class Answers(RecordStage):
    """Makes records that are no traces and no verdicts."""

    record_type = Prediction


def world(stage: str) -> Any:
    return SimpleNamespace(
        is_global_zero=True, state=SimpleNamespace(fn=TrainerFn(stage)), datamodule=None, callbacks=[]
    )


def refused(callback: Callback, module: LightningModule, stage: str) -> str:
    with pytest.raises(UserError) as refusal:
        callback.setup(world(stage), module, stage)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("make", "module", "stage", "purpose"),
    [
        (lambda path: LocalRollout(), Stranger, "fit", "modules that answer questions with a student"),
        (lambda path: LocalRollout(), Remote, "test", "modules that answer questions with a student"),
        (lambda path: VLLMRollout(["http://127.0.0.1:9"]), Stranger, "fit", "modules that answer questions with"),
        (lambda path: CompletionTable(), Stranger, "fit", "modules that answer questions"),
        (lambda path: RewardLogger(), RolloutModule, "fit", "GRPOModule and others that reward rollouts"),
        (lambda path: PredictionWriter(str(path / "p")), Stranger, "test", "modules that answer questions"),
        (lambda path: PredictionWriter(str(path / "p")), Remote, "test", "RemotePredictionWriter is for models behind"),
        (lambda path: RemotePredictionWriter(str(path / "p")), Stranger, "test", "modules that answer questions"),
        (lambda path: RemotePredictionWriter(str(path / "p")), AnsweringModule, "test", "PredictionWriter for those"),
        (lambda path: RecordWriter(str(path)), Stranger, "predict", "the teacher, the fact verifiers"),
        (lambda path: RecordWriter(str(path)), Answers, "predict", "the teacher, the fact verifiers"),
    ],
)
def test_a_module_that_does_not_fit_is_refused(
    tmp_path: Path, make: Any, module: Any, stage: str, purpose: str
) -> None:
    callback = make(tmp_path)
    said = refused(callback, module(), stage)
    assert said.startswith(f"{type(callback).__name__} does not fit {module.__name__}: ") and purpose in said
    assert not list(tmp_path.iterdir())


def test_a_module_that_fits_is_taken() -> None:
    LocalRollout().setup(world("fit"), RolloutModule(), "fit")
    RewardLogger().setup(world("fit"), GradedRollouts(), "fit")
    RewardLogger().setup(world("validate"), Stranger(), "validate")  # it does nothing there


def test_a_report_needs_records_and_questions() -> None:
    assert "needs a RecordWriter among trainer.callbacks" in refused(YieldReport(), RecordStage(), "predict")
