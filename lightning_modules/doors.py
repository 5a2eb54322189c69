"""What callbacks need of modules; a module says so by its base classes, and another one is refused at the start."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import lightning
import numpy as np
from torch import Tensor

from datamodules.batching.batch import AudioQABatch
from lightning_modules.distillation import OnPolicyDistillation
from records.completed import Completed
from records.records import Prediction, Record
from records.request_records import ItemResult
from runtime.errors import UserError

D = TypeVar("D", bound=lightning.LightningModule)


class Policy(Protocol):
    """What is known of any student, wherever its weights are.

    Attributes:
        weights: Hub name or directory of its checkpoint.
        processor: Its processor.
    """

    weights: str
    processor: Any

    @property
    def sharded(self) -> bool:
        """Whether its weights are spread over the ranks."""


@dataclass(frozen=True)
class TrainingRollouts:
    """How training batches are to be sampled.

    Attributes:
        num_completions: G, completions of each question.
        temperature: Sampling temperature.
        steps: Optimizer steps that each batch is used for.
        max_resamples: How often at most a question is asked again whose completions are all equally good.
        reference_urls: Servers that hold the reference and are to score each completion; none where none shall.
        distillation: The teacher that is to score each completion too; None where none shall.
        spare_prompts: Further questions of each batch, asked in place of those whose completions are all equally good.
    """

    num_completions: int
    temperature: float = 1.0
    steps: int = 1
    max_resamples: int = 0
    reference_urls: tuple[str, ...] = ()
    distillation: OnPolicyDistillation | None = None
    spare_prompts: int = 0


@dataclass(frozen=True)
class EvaluationRollouts:
    """How questions of validation, test and prediction are answered.

    Attributes:
        num_completions: Answers to each question.
        temperature: Sampling temperature; 0 takes the likeliest answer.
    """

    num_completions: int = 1
    temperature: float = 0.0


class RolloutModule(lightning.LightningModule):
    """A module whose batches a rollout callback fills: in evaluation always, in training where it says how.

    Attributes:
        student: The policy that is sampled from.
        completed: Answers of an interrupted evaluation; these questions are not asked again.
    """

    student: Policy
    completed: Completed = Completed()

    @property
    def processor(self) -> Any:
        """The student's processor, which the DataModule takes where it is given none."""
        return self.student.processor

    @property
    def training_rollouts(self) -> TrainingRollouts | None:
        """How training batches are to be sampled; None where they come with targets."""
        return None

    @property
    def evaluation_rollouts(self) -> EvaluationRollouts:
        """How evaluation answers questions: once, with the likeliest answer."""
        return EvaluationRollouts()


class GradedRollouts(RolloutModule):
    """A module that rewards the rollouts of each training batch; loggers read what the last one got.

    Attributes:
        last_rewards: Rewards ``[B, G]`` by each reward function.
        last_totals: Their weighted sum ``[B, G]``; None before the first batch.
        last_advantages: Their advantages ``[B, G]``; None before the first batch.
    """

    last_rewards: Mapping[str, Tensor]
    last_totals: Tensor | None
    last_advantages: Tensor | None

    def dead_groups(self, batch: AudioQABatch) -> np.ndarray:
        """Return which questions of a batch with rollouts nothing could be learned of ``[B]``, in main memory."""
        raise NotImplementedError


class AnsweringModule(lightning.LightningModule):
    """A module that answers questions; prediction writers and tables read its answers.

    Attributes:
        predictions: Answers of the running epoch on this rank.
        completed: Answers of earlier runs; these questions are not asked again.
        asks_endpoint: True where a model behind an endpoint is asked, whose answers are not waited for.
    """

    predictions: list[Prediction]
    completed: Completed = Completed()
    asks_endpoint = False

    @property
    def prediction_metadata(self) -> dict[str, Any]:
        """Fields that all predictions of a run share."""
        raise NotImplementedError


class RecordStage(lightning.LightningModule):
    """A module that makes records in ``predict`` and does not wait for them; a RecordWriter takes them as they come.

    Attributes:
        record_type: What it makes.
        samples: How many records of each question it makes; None where the data decide.
        completed: What earlier runs have completed.
        spent: Tokens and money that earlier runs took.
        provenance: Fields that all of its records share; records of other settings are not mixed with them.
    """

    record_type: type[Record]
    samples: int | None = None
    completed: Completed = Completed()
    spent: tuple[int, float] = (0, 0.0)
    provenance: Mapping[str, Any]

    def outcomes(self) -> list[ItemResult]:
        """Return what has ended since the last call."""
        raise NotImplementedError

    def drain(self) -> Iterator[None]:
        """Yield whenever something has ended and can be taken (:meth:`outcomes`), until nothing is under way."""
        raise NotImplementedError

    def give_up(self, why: BaseException | None = None) -> None:
        """End what is under way; what has come of it can still be taken.

        Args:
            why: What ended the stage.
        """


def fitting(module: lightning.LightningModule, door: type[D], callback: object, purpose: str) -> D:
    """Return a module as what a callback needs.

    Args:
        module: The module.
        door: What the callback needs.
        callback: The callback, for the message.
        purpose: Which modules the callback is for, for the message.

    Raises:
        UserError: The module is another one.
    """
    if not isinstance(module, door):
        raise UserError(f"{type(callback).__name__} does not fit {type(module).__name__}: it is for {purpose}")
    return module
