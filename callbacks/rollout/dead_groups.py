"""Questions that nothing could be learned of are asked again, or replaced by spare ones, within the step."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from lightning import Trainer

from datamodules.batching.batch import AudioQABatch, Completions
from inference.vllm.sampling import CompletionOutput, SamplingParams
from lightning_modules.doors import GradedRollouts, RolloutModule, TrainingRollouts
from runtime.errors import UserError


class Rollouts(Protocol):
    """What is needed of the rollout callback."""

    def train_sampling(
        self, step: int, module: RolloutModule, wanted: TrainingRollouts, batch: AudioQABatch, attempt: int = 0
    ) -> list[SamplingParams]:
        """Return how the completions of a batch are drawn."""

    def sample_again(
        self,
        trainer: Trainer,
        pl_module: RolloutModule,
        batch: AudioQABatch,
        sampling: list[SamplingParams],
        rows: Sequence[int],
    ) -> list[list[CompletionOutput]]:
        """Draw completions of some of a batch's questions, on all ranks together."""

    def put(
        self,
        pl_module: RolloutModule,
        batch: AudioQABatch,
        samples: list[list[CompletionOutput]],
        version: str,
        seconds: float,
        sampling: Sequence[SamplingParams],
    ) -> Completions:
        """Give a batch its completions."""


def without_spares(batch: AudioQABatch, wanted: TrainingRollouts) -> AudioQABatch:
    """Return the questions of a batch that are asked in any case.

    Raises:
        UserError: It has not as many spare questions as the module wants.
    """
    if batch.spares != wanted.spare_prompts:
        raise UserError(
            f"model.spare_prompts is {wanted.spare_prompts}, and the batch has {batch.spares} spare questions: use a "
            "DataModule of this project, such as datamodules.TracesDataModule, or set it to 0"
        )
    return batch.chosen(range(len(batch) - batch.spares)) if batch.spares else batch


def revive(
    rollouts: Rollouts,
    trainer: Trainer,
    module: RolloutModule,
    wanted: TrainingRollouts,
    batch: AudioQABatch,
    samples: list[list[CompletionOutput]],
    whole: AudioQABatch,
) -> None:
    """Draw again what nothing could be learned of; all ranks go the same rounds, whoever has such questions.

    First they are asked again with other seeds, ``max_resamples`` times at most; then the next spare questions take
    their places, as long as there are any.

    Args:
        rollouts: Draws completions.
        trainer: The trainer.
        module: Rewards them.
        wanted: The limits.
        batch: The questions with their completions; changed in place.
        samples: ``[B][G]`` completions, changed likewise.
        whole: The questions and the spare ones.
    """
    if not isinstance(module, GradedRollouts):
        return

    def dead(limit: int) -> list[int] | None:
        rows: list[int] = np.flatnonzero(module.dead_groups(batch))[:limit].tolist()
        return rows if trainer.strategy.reduce_boolean_decision(bool(rows), all=False) else None

    def redraw(rows: list[int], attempt: int) -> Completions | None:
        begun, done = time.perf_counter(), batch.completions
        assert done is not None and done.seeds is not None and done.weight_version is not None
        sampling = rollouts.train_sampling(trainer.global_step, module, wanted, batch, attempt)
        drawn = rollouts.sample_again(trainer, module, batch, sampling, rows)
        if not rows:
            return None
        chosen = [replace(one, seed=seed) for one, seed in zip(sampling, done.seeds, strict=True)]
        for row, group in zip(rows, drawn, strict=True):
            samples[row], chosen[row] = group, sampling[row]
        seconds = done.seconds + time.perf_counter() - begun
        fresh = rollouts.put(module, batch, samples, done.weight_version, seconds, chosen)
        fresh.stale = done.stale
        fresh.discarded_groups = done.discarded_groups + (len(rows) if attempt else 0)
        fresh.refilled_groups = done.refilled_groups + (0 if attempt else len(rows))
        fresh.discarded_tokens = done.discarded_tokens + int(done.lengths[rows].sum())
        return fresh

    for attempt in range(1, wanted.max_resamples + 1):
        if (rows := dead(len(batch))) is None:
            return
        redraw(rows, attempt)
    places, following = list(range(len(batch))), len(batch)
    for _ in range(wanted.spare_prompts):  # each round some rank asks a spare question
        if (rows := dead(len(whole) - following)) is None:
            return
        for row in rows:
            places[row], following = following, following + 1
        if rows:
            batch.become(whole.chosen(places))
        redraw(rows, 0)
