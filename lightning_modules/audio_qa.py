"""Multiple-choice audio questions: the student answers, one matcher reads the answers, accuracy is counted exactly."""

from collections import defaultdict
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT

from datamodules.batch import AudioQABatch
from datamodules.records import Prediction, UserError
from lightning_modules.answers import match_option
from lightning_modules.rewards import FormatReward
from lightning_modules.student import Student


class AudioQAModule(lightning.LightningModule):
    """A student that answers audio questions; ``validate``, ``test`` and ``predict`` need nothing more.

    Completions come from a rollout callback (``callbacks.vllm_rollout.VLLMRollout`` or
    ``callbacks.local_rollout.LocalRollout``), which fills each batch before the step sees it.
    """

    rollouts_in_training = False
    """True where the rollout callback is to sample completions for training batches too."""

    def __init__(self, weights: str, **student: Any) -> None:
        """Load the student.

        Args:
            weights: Hub name or directory of a Qwen2-Audio or Qwen2.5-Omni checkpoint.
            **student: How the student is loaded.
        """
        super().__init__()
        self.student = Student(weights, **student)
        self.strict_loading = False  # frozen weights are not in checkpoints: they come from `weights`
        self.predictions: list[Prediction] = []
        self._format = FormatReward()
        self._formatted: dict[str, float] = {}

    def configure_model(self) -> None:
        """Under ``ModelParallelStrategy`` spread the weights over the data-parallel ranks."""
        if self.device_mesh is None or self.student.sharded:
            return
        if self.device_mesh["tensor_parallel"].size() > 1:
            raise UserError("set trainer.strategy.init_args.tensor_parallel_size to 1: weights are sharded, not split")
        for student in self.modules():
            if isinstance(student, Student):
                student.shard(self.device_mesh["data_parallel"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen weights out of the checkpoint; they are in ``weights``."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name in trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that lacks a trained weight: it belongs to another configuration."""
        if "state_dict" not in checkpoint:
            return  # a strategy that shards the weights has loaded them by now
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        found = checkpoint["state_dict"].keys()
        if trained != found:
            missing, unknown = sorted(trained - found), sorted(found - trained)
            raise UserError(
                f"the checkpoint does not fit this model: {len(missing)} trained weights are missing from it"
                f"{f' (such as {missing[0]})' if missing else ''}, {len(unknown)} are unknown"
                f"{f' (such as {unknown[0]})' if unknown else ''}; resume with the configuration that wrote it"
            )

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's predictions."""
        self._begin()

    def on_test_epoch_start(self) -> None:
        """Forget the last epoch's predictions."""
        self._begin()

    def on_predict_epoch_start(self) -> None:
        """Forget the last epoch's predictions."""
        self._begin()

    def validation_step(self, batch: AudioQABatch, batch_idx: int) -> STEP_OUTPUT:
        """Read the completions' answers."""
        self._read(batch)
        return None

    def test_step(self, batch: AudioQABatch, batch_idx: int) -> STEP_OUTPUT:
        """Read the completions' answers."""
        self._read(batch)
        return None

    def predict_step(self, batch: AudioQABatch, batch_idx: int) -> list[Prediction]:
        """Read the completions' answers and return them."""
        return self._read(batch)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/accuracy`` and its companions."""
        self._log_accuracy("val")

    def on_test_epoch_end(self) -> None:
        """Log ``test/accuracy`` and its companions."""
        self._log_accuracy("test")

    def _begin(self) -> None:
        self.predictions = []
        self._formatted = {}

    def _read(self, batch: AudioQABatch) -> list[Prediction]:
        if batch.completions is None:
            raise UserError(
                "nobody generated completions for this batch: add callbacks.vllm_rollout.VLLMRollout or "
                "callbacks.local_rollout.LocalRollout to trainer.callbacks"
            )
        read = []
        finished = batch.completions.finished.tolist()
        for question, texts, ended in zip(batch.questions, batch.completions.texts, finished, strict=True):
            choice = match_option(texts[0], question.options)
            read.append(
                Prediction(
                    question_id=question.id,
                    completion=texts[0],
                    choice=choice,
                    answer=question.answer,
                    correct=None if question.answer is None else choice == question.answer,
                    category=question.category,
                    options=question.options,
                    finished=bool(ended[0]),
                    probe=question.metadata.get("probe", ""),
                )
            )
            self._formatted[question.id] = self._format(texts[0], question, None)
        self.predictions += read
        return read

    def _log_accuracy(self, stage: str) -> None:
        """Count every question of every rank once."""
        rows = [(p.question_id, p.category, p.correct, p.choice is None, p.finished, self._formatted[p.question_id])
                for p in self.predictions]  # fmt: skip
        if self.trainer.world_size > 1:
            shards: list[list[Any]] = [[] for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(shards, rows)
            rows = [row for shard in shards for row in shard]
        by_id = {row[0]: row for row in rows}
        labelled = [row for row in by_id.values() if row[2] is not None]
        categories = defaultdict(list)
        for _, category, correct, *_ in labelled:
            categories[category].append(correct)
        metrics = {f"{stage}/accuracy/{name}": _mean(values) for name, values in sorted(categories.items())}
        metrics |= {
            f"{stage}/accuracy": _mean([row[2] for row in labelled]),
            f"{stage}/unanswerable": _mean([row[3] for row in by_id.values()]),
            f"{stage}/truncated": _mean([not row[4] for row in by_id.values()]),
            f"{stage}/format": _mean([row[5] for row in by_id.values()]),
            f"{stage}/questions": float(len(by_id)),
        }
        self.log_dict(metrics, sync_dist=True)  # equal on all ranks already


def _mean(values: list[Any]) -> float:
    return float(sum(values) / len(values)) if values else 0.0
