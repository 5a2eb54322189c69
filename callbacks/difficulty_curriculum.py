"""A curriculum of difficulty: questions that the student answers every other time come most often."""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch import Callback
from typing_extensions import override

from datamodules.audio_qa import AudioQADataModule
from datamodules.batching.batch import AudioQABatch
from datamodules.batching.curriculum import Curriculum, CurriculumSettings
from lightning_modules.doors import GradedRollouts, fitting
from runtime.all_ranks import all_gather_objects
from runtime.errors import UserError, refuse_below

AHEAD = 3
"""Batches that are asked for before their turn, beside two by each worker of the loader."""


class DifficultyCurriculum(Callback):
    """Draws training questions by running success rates, in place of going through all of them.

    A question's weight is ``max(floor, 4 p (1 - p))``, with p the running share of its completions that were right; a
    question that was not asked yet has weight 1. The rates of all ranks are one, and are kept in checkpoints: a
    resumed run draws the same. An epoch has as many batches as ever, but questions come more than once, or not at all.

    Args:
        reward: Name of the reward, from 0 to 1, whose mean over a question's completions is its success rate.
        every_n_batches: Batches that are drawn at once, with the rates at the beginning of those before them.
        momentum: Share of a question's running success rate that stays when it is answered again.
        floor: Smallest weight of a question; 1 draws all alike.
    """

    def __init__(
        self, reward: str = "accuracy", every_n_batches: int = 50, momentum: float = 0.5, floor: float = 0.1
    ) -> None:
        refuse_below(1, every_n_batches=every_n_batches)
        if not 0 <= momentum < 1:
            raise UserError(f"DifficultyCurriculum: momentum is {momentum}; it is from 0 to below 1")
        if not 0 < floor <= 1:
            raise UserError(f"DifficultyCurriculum: floor is {floor}; it is above 0 and at most 1")
        self.reward = reward
        self._curriculum = Curriculum(CurriculumSettings(every_n_batches, momentum, floor))

    @property
    def rates(self) -> Mapping[str, float]:
        """Running success rate of each question that was asked, by its id."""
        return self._curriculum.rates

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the DataModule draw by this curriculum.

        Raises:
            UserError: The module rewards nothing, or the data have another order or are asked for too far ahead.
        """
        if stage != "fit":
            return
        module = fitting(pl_module, GradedRollouts, self, "GRPOModule and others that reward rollouts")
        if (wanted := module.training_rollouts) is not None and wanted.spare_prompts:
            raise UserError(
                "DifficultyCurriculum and model.spare_prompts each leave questions out that teach nothing, and one "
                "would not learn of what the other replaced: leave one of them out"
            )
        data: object = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, AudioQADataModule):
            raise UserError(
                f"DifficultyCurriculum does not fit {type(data).__name__}: it draws the questions of this project's "
                "DataModules, such as datamodules.TracesDataModule"
            )
        if data.settings.length_bucket > 1:
            raise UserError(
                "DifficultyCurriculum and data.length_bucket above 1 each decide which questions make a batch: leave "
                "one of them out"
            )
        least = 2 * data.settings.num_workers + AHEAD
        if self._curriculum.settings.every_n_batches < least:
            raise UserError(
                f"DifficultyCurriculum: every_n_batches is {self._curriculum.settings.every_n_batches}, and the "
                f"{data.settings.num_workers} workers of data.num_workers ask for batches so far ahead that the rates "
                f"would not be known yet: set it to {least} or more"
            )
        data.follow(self._curriculum)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: AudioQABatch, batch_idx: int
    ) -> None:
        module = fitting(pl_module, GradedRollouts, self, "GRPOModule and others that reward rollouts")
        if (found := module.last_rewards.get(self.reward)) is None:
            raise UserError(
                f"DifficultyCurriculum: there is no reward {self.reward!r}, by which it would draw: the rewards are "
                f"{', '.join(module.last_rewards)}"
            )
        if bool(((found < 0) | (found > 1)).any()):
            raise UserError(
                f"DifficultyCurriculum: the reward {self.reward!r} is no success rate, it goes beyond 0 to 1"
            )
        ids = [question.id for question in batch.questions]
        answered = list(zip(ids, found.float().mean(-1).tolist(), strict=True))
        self._curriculum.add(all_gather_objects(trainer, answered), batch_idx + 1)
        rates = self.rates
        logged = {
            "curriculum/questions_seen": float(len(rates)),
            "curriculum/success_rate": sum(rates.values()) / len(rates),
        }
        pl_module.log_dict(logged, on_step=True, on_epoch=False, batch_size=len(batch))

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the rates."""
        return self._curriculum.state()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the rates of a checkpoint."""
        self._curriculum.restore(state_dict)
