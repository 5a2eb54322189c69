"""Multiple-choice answers of any model, wherever it runs: one matcher reads them, accuracy is counted exactly."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from answers.answers import match_option
from datamodules.audio_qa import AudioQADataModule
from lightning_modules.doors import AnsweringModule
from lightning_modules.hearing_gap import hearing_metrics
from lightning_modules.objectives.rewards import FormatReward
from records.records import Prediction, Question
from runtime.all_ranks import all_gather_objects
from runtime.errors import UserError


class QAEvaluation(AnsweringModule):
    """What all modules that answer questions share: predictions and their accuracy.

    Attributes:
        model_name: What the model is called in predictions.
        predictions: The predictions of the running epoch on this rank.
        probed: Those to questions of validation that were asked again with another sound.
    """

    model_name = ""

    def __init__(self) -> None:
        """Begin without predictions."""
        super().__init__()
        self.predictions: list[Prediction] = []
        self.probed: list[Prediction] = []
        self._format = FormatReward()
        self._formatted: dict[str, float] = {}

    @property
    def prediction_metadata(self) -> dict[str, Any]:
        """Fields that all predictions of a run share: the model, how it is asked, and what it gets beside the text."""
        data = self._questions
        return {
            "model": self.model_name,
            "prompt_version": "" if data is None else data.prompt.identifier,
            "modalities": "audio" if data is None or data.requests is None else data.requests.modalities,
        }

    @override
    def setup(self, stage: str) -> None:
        """Refuse data that is prepared for a model of another kind.

        Raises:
            UserError: A model behind an endpoint gets batches of tensors, or a student gets requests.
        """
        data = self._questions
        if data is None or self.asks_endpoint == (data.requests is not None):
            return
        name = type(self).__name__
        if self.asks_endpoint:
            raise UserError(f"{name} asks an endpoint: say in data.requests what is sent of each clip")
        raise UserError(f"data.requests is for a model behind an endpoint; for {name} set it to null")

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's predictions."""
        self._begin()

    def on_test_epoch_start(self) -> None:
        """Forget the last epoch's predictions."""
        self._begin()

    def on_predict_epoch_start(self) -> None:
        """Forget the last epoch's predictions."""
        self._begin()

    def on_validation_epoch_end(self) -> None:
        """Log ``val/accuracy`` and its companions."""
        self._log_accuracy("val")

    def on_test_epoch_end(self) -> None:
        """Log ``test/accuracy`` and its companions."""
        self._log_accuracy("test")

    def read_answer(self, question: Question, completion: str, finished: bool, **provenance: Any) -> Prediction:
        """Return which option a completion chose, and whether that is right.

        Args:
            question: The question as it was asked.
            completion: What the model said; empty where it said nothing.
            finished: False when it was cut at the token limit; then it has chosen something only inside a closed
                ``<answer>``, as for the reward.
            **provenance: Further fields of the prediction.
        """
        choice = match_option(completion, question.options, finished)
        return Prediction(
            question_id=question.id,
            completion=completion,
            choice=choice,
            answer=question.answer,
            correct=None if question.answer is None else choice == question.answer,
            category=question.category,
            options=question.options,
            finished=finished,
            probe=question.metadata.get("probe", ""),
            question_fingerprint=question.fingerprint,
            **provenance,
        )

    def keep(self, question: Question, prediction: Prediction) -> None:
        """Count a prediction in the running epoch."""
        self.predictions.append(prediction)
        self._formatted[question.id] = self._format(prediction.completion, question, None)

    @property
    def _questions(self) -> AudioQADataModule | None:
        """The DataModule, where there is one of questions."""
        data = self._trainer.datamodule if self._trainer is not None else None  # type: ignore[attr-defined]
        return data if isinstance(data, AudioQADataModule) else None

    def _begin(self) -> None:
        self.predictions = []
        self.probed = []
        self._formatted = {}

    def _log_accuracy(self, stage: str) -> None:
        """Count every question of every rank once."""
        rows = [(p.question_id, p.category, p.correct, p.choice is None, p.finished, self._formatted[p.question_id])
                for p in self.predictions]  # fmt: skip
        by_id = {row[0]: row for row in all_gather_objects(self.trainer, rows)}
        labelled = [row for row in by_id.values() if row[2] is not None]
        categories = defaultdict(list)
        for _, category, correct, *_ in labelled:
            categories[category].append(correct)
        metrics = {f"{stage}/accuracy/{name}": _mean(values) for name, values in sorted(categories.items())}
        if labelled:  # where no answer is known there is no accuracy
            metrics[f"{stage}/accuracy"] = _mean([row[2] for row in labelled])
        if unknown := len(by_id) - len(labelled):
            metrics[f"{stage}/without_answer"] = float(unknown)
        metrics |= {
            f"{stage}/unanswerable": _mean([row[3] for row in by_id.values()]),
            f"{stage}/truncated": _mean([not row[4] for row in by_id.values()]),
            f"{stage}/format": _mean([row[5] for row in by_id.values()]),
            f"{stage}/questions": float(len(by_id)),
        }
        if stage == "val":
            metrics |= self._hearing({row[0]: row[2] for row in by_id.values()}, metrics.get("val/accuracy"))
        self.log_dict(metrics, sync_dist=True)  # equal on all ranks already

    def _hearing(self, heard: Mapping[str, bool | None], accuracy: float | None) -> dict[str, float]:
        """Return what is known of the questions that were asked again with another sound, where some are."""
        data = self._questions
        if data is None or (hearing := data.settings.hearing) is None:
            return {}
        rows = all_gather_objects(self.trainer, [(p.question_id, p.probe, p.correct) for p in self.probed])
        found = {f"val/{name}": value for name, value in hearing_metrics(heard, rows).items()}
        if found and accuracy is not None:
            found["val/score"] = accuracy + hearing.weight * found["val/hearing_gap"]
        return found


def _mean(values: list[Any]) -> float:
    return float(sum(values) / len(values)) if values else 0.0
