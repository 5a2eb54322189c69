"""Callbacks and a reward for the tests of resuming, named by class path in the configurations under test."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from callbacks.rollout.vllm_rollout import VLLMRollout
from records.records import Question


class Recorder(Callback):
    """Appends a line of each training batch to a file.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        record = {
            "step": trainer.global_step,
            "questions": [question.id for question in batch.questions],
            "completions": batch.completions.texts,
            "version": batch.completions.weight_version,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "metrics": {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("train/")},
        }
        with open(self.path, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")


class KillAt(Callback):
    """Kills the process without warning.

    Args:
        moment: The hook in which it happens.
        step: Optimizer steps that must have been taken.
    """

    def __init__(self, moment: str, step: int) -> None:
        self.moment = moment
        self.step = step

    def _maybe(self, moment: str, trainer: Trainer) -> None:
        if moment == self.moment and trainer.global_step >= self.step and not trainer.sanity_checking:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self._maybe("optimizer", trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._maybe("batch_end", trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._maybe("validation", trainer)


class Spread:
    """A reward that differs between random completions."""

    name = "spread"

    def __call__(self, completion: str, question: Question, label: str | None) -> float:
        return sum(completion.encode()) % 7 / 7


class RecordingVLLMRollout(VLLMRollout):
    """Appends what is asked in training to a file.

    Args:
        record: The file.
        server_urls: The servers.
    """

    def __init__(self, record: str, server_urls: list[str]) -> None:
        super().__init__(server_urls, max_new_tokens=6, retry_seconds=60)
        self.record = record

    def sample(self, trainer: Trainer, pl_module: LightningModule, batch: Any, sampling: Any) -> Any:
        samples, version = super().sample(trainer, pl_module, batch, sampling)
        if sampling[0].temperature > 0:
            asked = {
                "step": trainer.global_step,
                "prompts": batch.request_ids,
                "seeds": [each.seed for each in sampling],
                "version": version,
            }
            with open(self.record, "a", encoding="utf-8") as lines:
                lines.write(json.dumps(asked) + "\n")
        return samples, version


class Leisurely(Callback):
    """Takes its time over each training batch, so that a signal comes in the midst of them."""

    def on_train_batch_start(self, *_: Any) -> None:
        time.sleep(1)


class Losses(Callback):
    """Appends each training batch's loss to a file, on the first rank.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.is_global_zero:
            with open(self.path, "a", encoding="utf-8") as lines:
                print(trainer.global_step, float(trainer.callback_metrics["train/loss"]), file=lines, flush=True)


class KillInSave(Callback):
    """Kills a rank while a sharded checkpoint is written, when its parts are on the disk and it is not yet there.

    Args:
        step: Optimizer steps that must have been taken.
        rank: Which rank.
    """

    def __init__(self, step: int, rank: int = 0) -> None:
        self.step = step
        self.rank = rank

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step - 1 and trainer.global_rank == self.rank:
            trainer.strategy.writer.wait()  # for the one before
            write = FileSystemWriter.write_data

            def write_and_end(writer: FileSystemWriter, *arguments: Any) -> Any:
                write(writer, *arguments)
                os.kill(os.getpid(), signal.SIGKILL)

            FileSystemWriter.write_data = write_and_end  # type: ignore[assignment]
