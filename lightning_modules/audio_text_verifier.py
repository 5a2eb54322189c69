"""The cheap checker (paper, section 3.2): trained on a few hundred of the checker's verdicts, used in its place."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, BinaryCalibrationError, BinaryPrecision
from typing_extensions import override

from datamodules.batching.heard_traces import AlignmentBatch
from lightning_modules.doors import RecordStage
from lightning_modules.models.alignment_head import AlignmentHead
from lightning_modules.models.checkpoints.checkpoint_folder import load_processor
from lightning_modules.models.frozen_hearing import FrozenHearing, Hears
from lightning_modules.objectives.calibration import fit_temperature
from records.records import Verdict
from records.request_records import Outcome, RequestError, Usage
from runtime.errors import UserError

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
        self.weights = weights
        self.encoder = FrozenHearing(weights)
        self.processor = load_processor(weights)
        self.hears: Hears = hears
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
        metrics = {
            "auroc": BinaryAUROC(),
            "accuracy": BinaryAccuracy(threshold=threshold),
            "ece": BinaryCalibrationError(n_bins=10),
            "precision": BinaryPrecision(threshold=threshold),
        }
        self.val_metrics = MetricCollection(dict(metrics), prefix="val/")
        self.test_metrics = MetricCollection({n: m.clone() for n, m in metrics.items()}, prefix="test/")
        self.provenance = {"checker": self.name, "mode": "trace", "threshold": threshold}
        self._heard: dict[str, Tensor] = {}
        self._held_out: list[tuple[Tensor, Tensor]] = []
        self._outcomes: list[Outcome] = []
        self._run_id = uuid.uuid4().hex[:12]

    @property
    def name(self) -> str:
        """What the verifier is called in verdicts."""
        return f"audio-text-verifier/{Path(self.weights).name}"

    # Scores

    def logits(self, batch: AlignmentBatch, clip_of: Tensor | None = None, keep: bool = False) -> Tensor:
        """Return the logit of "fits" for each trace ``[B]``, before calibration.

        Args:
            batch: Clips and traces.
            clip_of: Which clip each trace is compared with; its own by default.
            keep: Encode each clip once and keep the result, for training on few clips.
        """
        clips = self._hear(batch, keep)
        audio = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        lengths = torch.tensor([len(clip) for clip in clips], device=audio.device)
        audio_mask = torch.arange(audio.shape[1], device=audio.device) < lengths[:, None]
        clip_of = batch.clip_of if clip_of is None else clip_of
        text = self.encoder.embedding(batch.ids)
        logits: Tensor = self.head(audio[clip_of], audio_mask[clip_of], text, batch.mask)
        return logits

    def _hear(self, batch: AlignmentBatch, keep: bool) -> list[Tensor]:
        if not keep:
            return self.encoder.windows(batch.features, batch.feature_lengths, self.hears)
        names = [question.media for question in batch.questions]
        if not all(name in self._heard for name in names):
            heard = self.encoder.windows(batch.features, batch.feature_lengths, self.hears)
            self._heard.update(zip(names, heard, strict=True))
        return [self._heard[name] for name in names]

    # Training

    @override
    def on_fit_start(self) -> None:
        if self.trained:
            return
        module: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        batches = (batch.to(self.device) for batch in module.train_dataloader())
        audio = [clip for batch in batches for clip in self._hear(batch, keep=True)]
        self.head.set_statistics(torch.cat(audio), self.encoder.embedding.weight)

    def training_step(self, batch: AlignmentBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        loss = binary_cross_entropy_with_logits(self.logits(batch, keep=True), batch.labels)
        self.log("train/loss", loss, batch_size=len(batch.labels))
        for _ in range(_PAIRINGS if self.mismatched else 0):
            others, rows = mismatched_pairs(batch)
            if len(rows):
                clip_of = batch.clip_of.clone()
                clip_of[rows] = others
                wrong = self.logits(batch, clip_of, keep=True)[rows]
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
        self._held_out.append((self.logits(batch, keep=True), batch.labels))

    @override
    def on_validation_epoch_end(self) -> None:
        logits, labels = (torch.cat(parts) for parts in zip(*self._held_out, strict=True))
        self._held_out = []
        loss = float(binary_cross_entropy(self.head.probability(logits), labels))
        self._report(self.val_metrics, logits, labels)
        self.log("val/loss", loss, prog_bar=True)

    @override
    def on_train_end(self) -> None:
        self.head.eval()
        module: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        with torch.no_grad():
            batches = [batch.to(self.device) for batch in module.val_dataloader()]
            logits = torch.cat([self.logits(batch, keep=True) for batch in batches])
        labels = torch.cat([batch.labels for batch in batches])
        temperature, offset = fit_temperature(logits, labels)
        self.head.temperature.fill_(temperature)
        self.head.offset.fill_(offset)
        self.val_metrics.reset()
        values = self.val_metrics(self.head.probability(logits), labels.long())
        self.val_metrics.reset()
        report = {name.removeprefix("val/"): round(float(value), 4) for name, value in values.items()}
        if self.trainer.is_global_zero:
            directory = Path(self.trainer.default_root_dir) / "head"
            save_head(directory, self.head)
            content = {"held_out": report, "verdicts": len(labels), "threshold": self.threshold}
            (directory / "report.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            shown = ", ".join(f"{name} {value:.3f}" for name, value in report.items())
            rank_zero_info(f"held-out verdicts: {shown}; the head was written to {directory}")

    def test_step(self, batch: AlignmentBatch, batch_idx: int) -> None:
        """Score verdicts on clips that training has not seen."""
        self._held_out.append((self.logits(batch), batch.labels))

    @override
    def on_test_epoch_end(self) -> None:
        logits, labels = (torch.cat(parts) for parts in zip(*self._held_out, strict=True))
        self._held_out = []
        self._report(self.test_metrics, logits, labels)

    def _report(self, metrics: MetricCollection, logits: Tensor, labels: Tensor) -> None:
        metrics.reset()
        self.log_dict(metrics(self.head.probability(logits), labels.long()))
        metrics.reset()

    # Verification

    def predict_step(self, batch: AlignmentBatch, batch_idx: int) -> int:
        """Judge traces; the writer takes the verdicts with :meth:`outcomes`."""
        if not self.trained:
            raise UserError("model.head is not set: give the directory that `fit --config verifier.yaml` wrote")
        for question, reason in batch.errors:
            error = RequestError.now(question.id, "media", True, reason)
            self._outcomes.append(Outcome((), (error,), Usage(question.id, self._run_id)))
        if not batch.traces:
            return 0
        probabilities = self.head.probability(self.logits(batch)).tolist()
        by_question: dict[str, list[Verdict]] = {}
        for trace, probability in zip(batch.traces, probabilities, strict=True):
            verdict = Verdict(
                question_id=trace.question_id,
                sample=trace.sample,
                accepted=probability >= self.threshold,
                checker=self.name,
                probability=round(probability, 6),
                evidence=(f"alignment {probability:.3f}",),
                threshold=self.threshold,
            )
            by_question.setdefault(trace.question_id, []).append(verdict)
        for question_id, verdicts in by_question.items():
            self._outcomes.append(Outcome(tuple(verdicts), (), Usage(question_id, self._run_id)))
        return len(probabilities)

    @override
    def outcomes(self) -> list[Outcome]:
        done, self._outcomes = self._outcomes, []
        return done

    @override
    def drain(self) -> Iterator[None]:
        yield


def mismatched_pairs(batch: AlignmentBatch) -> tuple[Tensor, Tensor]:
    """Pair accepted traces with another clip of the batch, of which nothing of the same wording was accepted.

    Args:
        batch: Clips and traces with verdicts.

    Returns:
        The clips, and the rows of the traces.
    """
    accepted = [bool(label == 1) for label in batch.labels.tolist()]
    clip_of = batch.clip_of.tolist()
    media = [question.media for question in batch.questions]
    true_of: dict[str, set[str]] = {}
    for row, is_true in enumerate(accepted):
        if is_true:
            true_of.setdefault(media[clip_of[row]], set()).add(batch.traces[row].reasoning)
    rows, others = [], []
    for row, is_true in enumerate(accepted):
        if not is_true:
            continue
        said = batch.traces[row].reasoning
        choices = [
            clip for clip, name in enumerate(media) if name != media[clip_of[row]] and said not in true_of.get(name, ())
        ]
        if choices:
            rows.append(row)
            others.append(choices[int(torch.randint(len(choices), ()))])
    device = batch.clip_of.device
    return torch.tensor(others, dtype=torch.long, device=device), torch.tensor(rows, dtype=torch.long, device=device)


def save_head(directory: Path, head: AlignmentHead) -> None:
    """Write a head: ``head.json`` and ``head.safetensors``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "head.json").write_text(json.dumps(head.settings) + "\n", encoding="utf-8")
    save_file(
        {name: value.contiguous().cpu() for name, value in head.state_dict().items()}, directory / "head.safetensors"
    )


def load_head(directory: str) -> AlignmentHead:
    """Read a head that :func:`save_head` wrote.

    Raises:
        UserError: There is none.
    """
    folder = Path(directory)
    try:
        head = AlignmentHead(**json.loads((folder / "head.json").read_text(encoding="utf-8")))
        head.load_state_dict(load_file(folder / "head.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"model.head: no trained head in {directory} ({reason}): run `python train.py fit --config verifier.yaml`"
        ) from error
    return head
