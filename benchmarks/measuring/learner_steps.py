"""Steps on batches that are at hand: those of GRPOModule and SFTModule, and the conventional ones beside them."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from benchmarks.measuring import conventional
from benchmarks.measuring.laps import Laps
from benchmarks.measuring.learner_world import World, build_model
from benchmarks.measuring.run_record import spread
from benchmarks.measuring.shapes import Shape, advantages_of, give_adapters_something_to_say
from benchmarks.measuring.trainer_fit import fit, module_of
from datamodules.batching.audio_tokens import audio_token_counts
from datamodules.batching.batch import AudioQABatch
from lightning_modules.grpo import GRPOModule
from lightning_modules.models.adapters import LoRASettings
from lightning_modules.models.student import CompletionScores, Student
from lightning_modules.objectives.losses import grpo_loss
from lightning_modules.sft import SFTModule

SYSTEMS = ("conventional", "ours")


@dataclass(frozen=True)
class Setting:
    """What both sides have in common.

    Attributes:
        shape: Size of the student.
        device: ``cpu`` or ``cuda``.
        dtype: Type of the frozen weights.
        checkpointing: Gradient checkpointing.
        clock: ``wall`` or ``cpu``.
    """

    shape: Shape
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    checkpointing: bool = False
    clock: str = "wall"


@dataclass
class Measured:
    """Steps of one system on one batch, the first of them, which warms up, left out.

    Attributes:
        seconds: Of each step.
        parts: Of each step.
        result: Of the last step: the policy's log-probabilities (GRPO) or the loss (SFT).
    """

    seconds: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    result: Tensor | None = None

    def note(self, laps: Laps, result: Tensor, keep: bool) -> None:
        """Add a step that has ended."""
        self.result = result
        if keep:
            self.seconds.append(laps.seconds)
            self.parts.append(dict(laps.parts))

    def summary(self) -> dict[str, Any]:
        """Return medians and spread; where memory did not suffice there are none."""
        if not self.seconds:
            return {"seconds": None, "parts": {}}
        parts = {name: spread([p.get(name, 0.0) for p in self.parts])["median"] for name in self.parts[0]}
        return {"seconds": spread(self.seconds), "parts": parts}


class Ours:
    """``training_step`` of GRPOModule and SFTModule in a Trainer, optimizer and logging included.

    With a learning rate of 0, so that all steps compute the same.
    """

    def __init__(self, setting: Setting, world: World) -> None:
        """Build the student."""
        self.setting = setting
        model = build_model(setting.shape, world, setting.device, setting.dtype)
        self.student = Student.of_model(model, world.processor, LoRASettings(rank=8, alpha=16), setting.checkpointing)
        give_adapters_something_to_say(self.student)
        language_model = self.student.architecture.language_model(self.student.base)
        self.watch = StepWatch(self.student, Laps(language_model, setting.device, setting.clock))

    def take(
        self, case: str, batch: AudioQABatch, rounds: int, between: Callable[[], object] = lambda: None
    ) -> Measured:
        """Take a step to warm up and then some that count, until memory does not suffice.

        Args:
            case: Begins with ``grpo`` or ``sft``; where it ends with ``cached``, the audio comes encoded.
            batch: For all of them.
            rounds: How many.
            between: Called before each, beside the clock.
        """
        kind = GRPOModule if case.startswith("grpo") else SFTModule
        if case.endswith("cached"):
            counts = audio_token_counts(batch.feature_lengths)[1].tolist()
            batch = dataclasses.replace(
                batch, audio=list(self.student.encode_audio(batch.to(self.setting.device)).split(counts))
            )
        self.watch.begin(between)
        try:
            fit(
                module_of(kind, self.student, lr=0.0),
                [batch] * (rounds + 1),
                self.watch,
                device=self.setting.device,
                dtype=self.setting.dtype,
            )
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
        return self.watch.measured


class StepWatch(Callback):
    """Reads the laps of each step of a module by the Trainer's hooks."""

    def __init__(self, student: Student, laps: Laps) -> None:
        """Watch a student, from now on."""
        self.laps = laps
        self.measured = Measured()
        self._between: Callable[[], object] = lambda: None
        self._logprobs: Tensor | None = None
        score = student.completion_logprobs

        def completion_logprobs(*args: Any, **kwargs: Any) -> CompletionScores:
            scores = score(*args, **kwargs)
            laps.mark("head")
            self._logprobs = scores.logprobs.detach()
            return scores

        student.completion_logprobs = completion_logprobs  # type: ignore[method-assign]

    def begin(self, between: Callable[[], object]) -> None:
        """Forget the steps so far; ``between`` is called before each that comes."""
        self.measured = Measured()
        self._between = between

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        self._between()
        self.laps.start()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """The forward pass has ended."""
        self.laps.begin_backward()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The gradients are there."""
        self.laps.mark("language model")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The step has ended; what is after the gradients is clipping, optimizer and metrics."""
        self.laps.mark("optimizer")
        result = outputs["loss"] if outputs else self._logprobs
        assert result is not None
        self.measured.note(self.laps, result, batch_idx > 0)


class Conventional:
    """The steps in plain transformers and peft, with the learning rate 0 too."""

    def __init__(self, setting: Setting, world: World) -> None:
        """Build model and adapters."""
        self.device = setting.device
        self.processor = world.processor
        model = build_model(setting.shape, world, setting.device, setting.dtype)
        self.model = conventional.with_adapters(model, checkpointing=setting.checkpointing)
        give_adapters_something_to_say(self.model)
        self.laps = Laps(self.model.base_model.model.model.language_model, setting.device, setting.clock)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=0.0)

    def take(self, case: str, batch: AudioQABatch, rounds: int) -> Measured:
        """Take steps as :meth:`Ours.take` does; nobody brings encoded audio here."""
        measured, step = self.steps(case, batch)
        for _ in range(rounds + 1):
            step()
        return measured

    def steps(self, case: str, batch: AudioQABatch) -> tuple[Measured, Callable[[], None]]:
        """Return what takes a step each time it is called, and where it is noted."""
        measured = Measured()
        rows = conventional.rows_of(self.processor, batch).to(self.device)
        advantages = advantages_of(batch).to(self.device)
        taken = 0

        def step() -> None:
            nonlocal taken
            self.laps.start()
            try:
                result = self._grpo(rows, advantages) if case.startswith("grpo") else self._sft(rows)
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                return
            measured.note(self.laps, result, taken > 0)
            taken += 1

        return measured, step

    def _grpo(self, rows: conventional.Rows, advantages: Tensor) -> Tensor:
        with torch.no_grad(), self.model.disable_adapter():
            reference = conventional.logprobs_of(self.model, rows)
        self.laps.mark("head")
        logprobs = conventional.logprobs_of(self.model, rows)
        self._update(grpo_loss(logprobs, logprobs.detach(), reference, advantages, rows.mask).loss, clip=True)
        return logprobs.detach()

    def _sft(self, rows: conventional.Rows) -> Tensor:
        loss: Tensor = self.model(**rows.inputs, labels=rows.labels).loss
        self._update(loss)
        return loss.detach()

    def _update(self, loss: Tensor, clip: bool = False) -> None:
        self.laps.begin_backward()
        loss.backward()
        self.laps.mark("language model")
        if clip:
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.laps.mark("optimizer")
