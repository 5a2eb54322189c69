"""The cheap checker (paper, section 3.2): trained on a few hundred of the checker's verdicts, used in its place."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, BinaryCalibrationError, BinaryPrecision
from typing_extensions import override

from datamodules.batching.heard_traces import AlignmentBatch
from lightning_modules.doors import RecordStage
from lightning_modules.models.alignment_head import AlignmentHead
from lightning_modules.models.checkpoints.checkpoint_folder import load_processor
from lightning_modules.models.frozen_audio_encoder import FrozenAudioEncoder, Hears
from lightning_modules.models.head_folder import load_head, refuse_head_place, save_head
from lightning_modules.models.hearing_memory import HearingMemory
from lightning_modules.objectives.calibration import fit_temperature
from lightning_modules.objectives.mismatched_pairs import mismatched_pairs
from lightning_modules.trace_verdicts import TraceVerdicts
from records.records import Verdict
from records.request_records import ItemResult
from runtime.all_ranks import of_rank_zero
from runtime.errors import UserError, refuse_below

_PAIRINGS = 2
"""How often each accepted trace of a batch is paired with another clip."""


class AudioTextVerifier(RecordStage):
    """A frozen audio encoder, the student's own by default, and a small head over audio and trace embeddings.

    ``fit`` trains the head with binary cross-entropy on verdicts, sets the temperature on held-out ones and writes
    ``<default_root_dir>/head``. ``test`` reports on other clips.
    ``predict`` writes verdicts as FactVerifierModule does, through the same RecordWriter.
    """

    record_type = Verdict

    def __init__(
        self,
        weights: str,
        head: str | None = None,
        hears: Hears = "encoder",
        hidden: int = 64,
        dropout: float = 0.3,
        lr: float = 3.0e-3,
        weight_decay: float = 0.01,
        mismatched: float = 1.0,
        threshold: float = 0.5,
    ) -> None:
        """Load the encoder, and the head where there is one.

        Args:
            weights: Hub name or directory of the student whose encoder and token embeddings are used, frozen.
            head: Directory of a trained head, as ``fit`` writes it; null makes a new one.
            hears: What the head is given of the sound: the encoder's audio tokens, the spectrum that the encoder is
                given (all that there is to learn from where the encoder was not trained), or both.
            hidden: Width of a new head.
            dropout: Dropout of a new head.
            lr: Highest learning rate of the cycle.
            weight_decay: Weight decay.
            mismatched: Weight in the loss of accepted traces with the sound of another clip, as rejected ones.
            threshold: Least probability that is accepted.
        """
        super().__init__()
        if not 0 <= threshold <= 1:
            raise UserError(f"model.threshold must be between 0 and 1, found {threshold}")
        refuse_below(0, "model.", lr=lr, weight_decay=weight_decay)
        self.weights = weights
        self.encoder = FrozenAudioEncoder(weights)
        self.processor = load_processor(weights)
        widths = (self.encoder.audio_width(hears), self.encoder.text_width)
        self.head = AlignmentHead(*widths, hidden, dropout) if head is None else load_head(head)
        if (self.head.settings["audio_width"], self.head.settings["text_width"]) != widths:
            raise UserError(
                f"the head in {head} was trained on another encoder than that of {weights}, or with another model.hears"
            )
        self.trained = head is not None
        self.lr = lr
        self.weight_decay = weight_decay
        self.mismatched = mismatched
        self.threshold = threshold
        self.val_metrics = verdict_metrics(threshold, "val/")
        self.test_metrics = verdict_metrics(threshold, "test/")
        self.provenance = {"checker": self.name, "mode": "trace", "threshold": threshold}
        self._memory = HearingMemory(self.encoder, hears)
        self._scored: list[tuple[Tensor, Tensor]] = []
        self._verdicts = TraceVerdicts(self.name, threshold)

    @property
    def name(self) -> str:
        """What the verifier is called in verdicts."""
        return f"audio-text-verifier/{Path(self.weights).name}"

    # Scores

    def logits(self, batch: AlignmentBatch, clip_index: Tensor | None = None, keep: bool = False) -> Tensor:
        """Return the logit of "fits" for each trace ``[B]``, before calibration.

        Args:
            batch: Clips and traces.
            clip_index: Which clip each trace is compared with; its own by default.
            keep: Encode each clip once and keep the result, for training on few clips.
        """
        clips = self._hear(batch, keep)
        audio = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        lengths = torch.tensor([len(clip) for clip in clips], device=audio.device)
        audio_mask = torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]
        clip_index = batch.clip_index if clip_index is None else clip_index
        text = self.encoder.embedding(batch.ids)
        logits: Tensor = self.head(audio[clip_index], audio_mask[clip_index], text, batch.mask)
        return logits

    def _hear(self, batch: AlignmentBatch, keep: bool) -> list[Tensor]:
        names = [question.media for question in batch.questions] if keep else None
        return self._memory.windows(batch.features, batch.feature_lengths, names)

    # Training

    @override
    def on_fit_start(self) -> None:
        of_rank_zero(self.trainer, lambda: refuse_head_place(self._directory))
        if self.trained:
            return
        module: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        batches = (batch.to(self.device) for batch in module.train_dataloader())
        audio = [clip for batch in batches for clip in self._hear(batch, keep=True)]
        self.head.set_statistics(torch.cat(audio), self.encoder.embedding.weight)

    @property
    def _directory(self) -> Path:
        return Path(self.trainer.default_root_dir) / "head"

    def training_step(self, batch: AlignmentBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        loss = binary_cross_entropy_with_logits(self.logits(batch, keep=True), batch.labels)
        self.log("train/loss", loss, batch_size=len(batch.labels))
        for _ in range(_PAIRINGS if self.mismatched else 0):
            others, rows = mismatched_pairs(batch)
            if len(rows):
                clip_index = batch.clip_index.clone()
                clip_index[rows] = others
                wrong = self.logits(batch, clip_index, keep=True)[rows]
                wrong_loss = binary_cross_entropy_with_logits(wrong, torch.zeros_like(wrong))
                loss = loss + self.mismatched / _PAIRINGS * wrong_loss
        return loss

    def configure_optimizers(self) -> Any:
        """Return AdamW over the head with one cycle of the learning rate."""
        optimizer = torch.optim.AdamW(self.head.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=max(steps, 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Validation and test

    def validation_step(self, batch: AlignmentBatch, batch_idx: int) -> None:
        """Score held-out verdicts."""
        self._scored.append((self.logits(batch, keep=True), batch.labels))

    @override
    def on_validation_epoch_end(self) -> None:
        logits, labels = self._take_scored()
        loss = float(binary_cross_entropy(self.head.probability(logits), labels))
        self.log_dict(self._values(self.val_metrics, logits, labels))
        self.log("val/loss", loss, prog_bar=True)

    @override
    def on_train_end(self) -> None:
        """Calibrate the head on the verdicts that were held out, and write it."""
        self.head.eval()
        module: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        with torch.no_grad():
            batches = [batch.to(self.device) for batch in module.val_dataloader()]
            logits = torch.cat([self.logits(batch, keep=True) for batch in batches])
        labels = torch.cat([batch.labels for batch in batches])
        self.head.calibrate(*fit_temperature(logits, labels))
        values = self._values(self.val_metrics, logits, labels)
        report = {name.removeprefix("val/"): round(float(value), 4) for name, value in values.items()}
        if self.trainer.is_global_zero:
            content = {"held_out": report, "verdicts": len(labels), "threshold": self.threshold}
            save_head(self._directory, self.head, content)
            shown = ", ".join(f"{name} {value:.3f}" for name, value in report.items())
            rank_zero_info(f"held-out verdicts: {shown}; the head was written to {self._directory}")

    def test_step(self, batch: AlignmentBatch, batch_idx: int) -> None:
        """Score verdicts on clips that training has not seen."""
        self._scored.append((self.logits(batch), batch.labels))

    @override
    def on_test_epoch_end(self) -> None:
        self.log_dict(self._values(self.test_metrics, *self._take_scored()))

    def _take_scored(self) -> tuple[Tensor, Tensor]:
        logits, labels = (torch.cat(parts) for parts in zip(*self._scored, strict=True))
        self._scored = []
        return logits, labels

    def _values(self, metrics: MetricCollection, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        metrics.reset()
        values: dict[str, Tensor] = metrics(self.head.probability(logits), labels.long())
        metrics.reset()
        return values

    # Verification

    def predict_step(self, batch: AlignmentBatch, batch_idx: int) -> int:
        """Judge traces; the writer takes the verdicts with :meth:`outcomes`."""
        if not self.trained:
            raise UserError("model.head is not set: give the directory that `fit --config verifier.yaml` wrote")
        for question, reason in batch.errors:
            self._verdicts.cannot_hear(question.id, reason)
        if batch.traces:
            self._verdicts.judge(batch.traces, self.head.probability(self.logits(batch)).tolist())
        return len(batch.traces)

    @override
    def outcomes(self) -> list[ItemResult]:
        return self._verdicts.take()

    @override
    def drain(self) -> Iterator[None]:
        yield


def verdict_metrics(threshold: float, prefix: str) -> MetricCollection:
    """Return what is measured of probabilities against verdicts.

    Args:
        threshold: Least probability that is accepted.
        prefix: Of the metrics' names.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "auroc": BinaryAUROC(),
        "accuracy": BinaryAccuracy(threshold=threshold),
        "ece": BinaryCalibrationError(n_bins=10),
        "precision": BinaryPrecision(threshold=threshold),
    }
    return MetricCollection(metrics, prefix=prefix)
