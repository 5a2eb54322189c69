"""Where training stands in its questions, through checkpoints."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.batching.items import Item
from datamodules.batching.sampler import Position
from runtime.errors import UserError


class ResumePoint:
    """The place of a checkpoint in the questions that are trained on, until training goes on from it."""

    def __init__(self) -> None:
        """Begin without a checkpoint."""
        self.restored: dict[str, Any] | None = None

    def position(self, trainer: Trainer | None) -> Position:
        """Return the next batch of training: that of the checkpoint, or else the beginning of the present epoch.

        Args:
            trainer: The trainer, which knows how far training is.
        """
        if trainer is None or trainer.overfit_batches:  # type: ignore[attr-defined]
            return Position()
        if (restored := self.restored) and trained_batches(trainer) == restored["trained_batches"]:
            return Position(restored["epoch"], restored["batch"])
        return Position(trainer.current_epoch, 0)

    def check(self, now: dict[str, Any], trainer: Trainer | None, begins: bool, data: str) -> None:
        """Refuse to go on within an epoch of other data: its remaining questions would not be those that are left.

        Args:
            now: What training goes through, as :func:`fingerprint` returns it.
            trainer: The trainer.
            begins: Whether this is the process's first pass over the questions.
            data: Class of the DataModule.

        Raises:
            UserError: The data are not those of the checkpoint, which was written in the middle of an epoch, or an
                optimizer step would gather fewer batches than before and after.
        """
        if self.restored is None:
            if trained_batches(trainer) and begins:
                rank_zero_warn(
                    f"the checkpoint has no position of a {data}: training begins with a new pass over the questions"
                )
            return
        if self.restored["batch"] == 0:
            return
        gathered = trainer.accumulate_grad_batches if trainer is not None else 1
        before = self.restored.get("accumulate_grad_batches", gathered)  # older checkpoints do not say
        if before != gathered and self.restored["batch"] % gathered:
            raise UserError(
                f"training cannot go on after batch {self.restored['batch']} of an epoch with "
                f"trainer.accumulate_grad_batches {before} -> {gathered}, which would make an optimizer step of fewer "
                f"batches than either: restore the setting, set a divisor of {self.restored['batch']}, or resume from "
                "a checkpoint of an epoch's end"
            )
        then = {name: self.restored.get(name) for name in now}
        changed = [f"{name} {then[name]} -> {now[name]}" for name in now if then[name] != now[name]]
        if changed:
            raise UserError(
                "training cannot go on in the middle of an epoch with other data than it began with "
                f"({', '.join(changed)}): restore these settings, or resume from a checkpoint of an epoch's end"
            )


def state_of(trainer: Trainer, epoch: int, data: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint says of the data.

    Args:
        trainer: The trainer.
        epoch: The epoch that the sampler is in.
        data: What training goes through, as :func:`fingerprint` returns it.
    """
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    batch = progress.current.processed
    if progress.is_last_batch:
        epoch, batch = epoch + 1, 0
    return {
        **data,
        "epoch": epoch,
        "batch": batch,
        "trained_batches": progress.total.processed,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
    }


def fingerprint(
    items: Sequence[Item], seed: int, global_batch_size: int, lengths: Iterable[float], length_bucket: int
) -> dict[str, Any]:
    """Return what decides which question is in which batch.

    Args:
        items: What is trained on.
        seed: Seed of its order.
        global_batch_size: Items of a batch, all ranks' together.
        lengths: Length of each item, for ``length_bucket``.
        length_bucket: Batches whose items are sorted by length.
    """
    ids = "\n".join(item.question.id for item in items)
    pool = {}
    if length_bucket > 1:
        pool = {"length_bucket": length_bucket, "lengths": _digest(",".join(f"{length:.1f}" for length in lengths))}
    return {
        "seed": seed,
        "global_batch_size": global_batch_size,
        "questions": len(items),
        "question_ids": _digest(ids),
        **pool,
    }


def trained_batches(trainer: Trainer | None) -> int:
    """Return how many batches training has gone through, in this process and before."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress if trainer is not None else None
    return progress.total.processed if progress is not None else 0


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
