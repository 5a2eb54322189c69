"""The product's modules in a real Trainer: what is measured are their own steps, none is written here again."""

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch.utils.data import DataLoader

from datamodules.batching.batch import AudioQABatch
from lightning_modules.models.student import Student
from lightning_modules.student_training import StudentTraining

M = TypeVar("M", bound=StudentTraining)


def module_of(kind: Callable[..., M], student: Student, **settings: Any) -> M:
    """Return a module around a student that is in memory already; random weights need no folder.

    Args:
        kind: Its class.
        student: What it trains.
        **settings: Of the module, all but the student's.
    """
    with patch("lightning_modules.audio_qa.Student", return_value=student):
        return kind("random", **settings)


def fit(
    module: StudentTraining,
    data: LightningDataModule | list[AudioQABatch],
    *callbacks: Callback,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Train once through the data, and leave the weights where they are.

    Args:
        module: What is trained.
        data: Where its batches come from, or the batches themselves.
        *callbacks: Of the Trainer.
        device: ``cpu`` or ``cuda``.
        dtype: Type of the frozen weights; with bfloat16 the precision is bf16-mixed.
    """
    module.cpu = lambda: module  # type: ignore[method-assign]  # the Trainer carries all weights there when it has ended
    batches: Any = data
    loader = None if isinstance(data, LightningDataModule) else DataLoader(batches, None, collate_fn=_as_it_is)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        trainer = Trainer(
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            precision="bf16-mixed" if dtype == torch.bfloat16 else "32-true",
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=list(callbacks),
        )
        trainer.fit(module, batches if loader is None else loader)


def _as_it_is(batch: Any) -> Any:
    return batch


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what a Trainer says each time: which devices there are, that no one validates."""
    log = logging.getLogger("lightning.pytorch")
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            yield
    finally:
        log.setLevel(before)
