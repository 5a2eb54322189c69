"""A stage as its configuration has it, reduced to what a step depends on, and rehearsed on a machine."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.strategies import ModelParallelStrategy
from transformers import AutoConfig

from lightning_modules.models.architectures.architecture import architecture_of
from planning.fake_batch import fake_batch
from planning.geometry import find_geometry
from planning.machine import Machine
from planning.memory import Peak
from planning.rehearsal import Rehearsed, rehearse
from runtime.errors import UserError

_KEPT = ("gradient_clip_val", "gradient_clip_algorithm", "precision")


@dataclass(frozen=True)
class Lengths:
    """How long everything is.

    Attributes:
        seconds: Of a clip.
        prompt: Tokens of a prompt beside the audio.
        completion: Tokens of a completion.
    """

    seconds: float
    prompt: int
    completion: int


@dataclass(frozen=True)
class Stage:
    """What of a configuration a step depends on.

    Attributes:
        model: ``class_path`` and ``init_args``.
        trainer: The trainer's arguments.
        questions: Of a batch.
        completions: Of each question.
        lengths: How long everything is.
        geometry: Name or folder of the student's, when it is not to be that of ``weights``.
    """

    model: dict[str, Any]
    trainer: dict[str, Any]
    questions: int
    completions: int
    lengths: Lengths
    geometry: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The module's arguments."""
        found: dict[str, Any] = self.model["init_args"]
        return found

    @property
    def is_grpo(self) -> bool:
        """Whether completions are sampled."""
        return "num_completions" in self.options

    @property
    def sharded(self) -> bool:
        """Whether ranks share the weights."""
        return "ModelParallelStrategy" in str(self.trainer.get("strategy"))

    @property
    def ranks(self) -> int:
        """Ranks of the training."""
        return int(self.trainer["devices"]) * int(self.trainer.get("num_nodes") or 1)

    @property
    def copies(self) -> int:
        """Copies of the weights that are trained."""
        return int((self.options.get("sharding") or {}).get("replicas") or 1) if self.sharded else self.ranks

    @property
    def micro_batches(self) -> int:
        """Forward and backward passes of a batch."""
        unit = self.questions if self.is_grpo else self.questions * self.completions
        return -(-unit // (self.options.get("micro_batch_size") or unit))

    @property
    def gathered(self) -> int:
        """Batches of an optimizer step."""
        return int(self.trainer.get("accumulate_grad_batches") or 1)

    @property
    def folder(self) -> Path:
        """Where the student's ``config.json`` is."""
        return find_geometry(str(self.options["weights"]), self.geometry)

    def with_options(self, **changed: Any) -> "Stage":
        """Return the stage with other arguments of the module."""
        return dataclasses.replace(self, model=self.model | {"init_args": self.options | changed})

    def short(self) -> "Stage":
        """Return the stage with a batch of two micro-batches: the second finds what all later ones find."""
        unit = self.options.get("micro_batch_size")
        if not unit or self.micro_batches <= 2:
            return self
        questions = 2 * unit if self.is_grpo else math.ceil(2 * unit / self.completions)
        return dataclasses.replace(self, questions=min(questions, self.questions))


def rehearse_stage(stage: Stage, machine: Machine, folder: Path | None = None) -> Rehearsed:
    """Rehearse a step of the first rank.

    Args:
        stage: The stage.
        machine: Where it is to run.
        folder: Of the ``config.json``, when it is not the stage's own.

    Returns:
        What it needs for a whole batch.
    """
    short, folder = stage.short(), folder or stage.folder
    config = AutoConfig.from_pretrained(folder)
    architecture = architecture_of(config)
    low = machine.is_gpu and str(stage.trainer.get("precision")).startswith("bf16")
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_argument("--strategy", type=ModelParallelStrategy | None)
    parsed = parser.parse_object({"strategy": stage.trainer.get("strategy") if stage.sharded else None})

    def trainer_for(callbacks: list[Any], plugins: list[Any]) -> Trainer:
        kept = {name: stage.trainer[name] for name in _KEPT if stage.trainer.get(name) is not None}
        chosen = parser.instantiate_classes(parsed).strategy
        more = {"plugins": plugins, "strategy": chosen} if chosen is not None else {}
        return Trainer(
            accelerator="cpu",
            devices=int(stage.trainer["devices"]) if chosen is not None else 1,
            num_nodes=int(stage.trainer.get("num_nodes") or 1) if chosen is not None else 1,
            max_steps=1,
            accumulate_grad_batches=min(stage.gathered, 2),
            logger=False,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **kept,
            **more,
        )

    def batches_for(module: Any) -> list[Any]:
        token = architecture.audio_token_id(module.student.base.config)
        sizes = dataclasses.astuple(short.lengths)
        counts = (short.questions, short.completions, token, architecture.mel_bins(config))
        return [fake_batch(architecture.front_end, *counts, *sizes)] * min(stage.gathered, 2)

    def make() -> Any:
        model = LightningArgumentParser(exit_on_error=False)
        model.add_subclass_arguments(LightningModule, "model")
        return model.instantiate_classes(model.parse_object({"model": stage.model})).model

    found = rehearse(
        make, trainer_for, batches_for, lambda _: folder, stage.ranks if stage.sharded else 1, machine.is_gpu, low
    )
    return _of_whole_batch(found, stage, short)


def _of_whole_batch(found: Rehearsed, stage: Stage, short: Stage) -> Rehearsed:
    """Scale what was seen of two micro-batches, and add what ranks with whole weights need to sum gradients."""
    times = stage.micro_batches / short.micro_batches * stage.gathered / min(stage.gathered, 2)
    found = dataclasses.replace(found, flops={p: round(n * times) for p, n in found.flops.items()})
    for kind, size in found.collectives.bytes.items():
        found.collectives.bytes[kind] = round(size * times)
    kinds = dict(found.peak.kinds)
    more = round(kinds.get("batch", 0) * (stage.questions / short.questions - 1))
    kinds["batch"] = kinds.get("batch", 0) + more
    if stage.ranks > 1 and not stage.sharded:  # buckets of gradients that are summed over the ranks
        found.collectives.bytes["all-reduce"] += found.trained
        kinds["temporary"] = kinds.get("temporary", 0) + found.trained
        more += found.trained
    phases = {phase: size + more for phase, size in found.peak.phases.items()}
    peak = Peak(found.peak.bytes + more, kinds, found.peak.phase, phases, found.peak.elsewhere)
    return dataclasses.replace(found, peak=peak)


def about_peak(stage: Stage, machine: Machine, scratch: Path) -> int:
    """Return the peak of a rank's memory, extrapolated from students of two and four layers.

    Every phase holds something for the whole model and the same for each layer. Where ranks share the weights this is
    too much (48 GiB in place of 39 for grpo.yaml on 8xa40.yaml, gathered in float32), because two gathered layers count
    as growth.

    Args:
        stage: The stage.
        machine: Where it is to run.
        scratch: An empty folder.
    """
    config = json.loads((stage.folder / "config.json").read_text(encoding="utf-8"))
    parts = config.get("thinker_config", config)
    depth = "encoder_layers" if "encoder_layers" in parts["audio_config"] else "num_hidden_layers"
    text, audio = parts["text_config"]["num_hidden_layers"], parts["audio_config"][depth]
    least = 2
    seen = []
    for layers in (least, 2 * least):
        parts["text_config"]["num_hidden_layers"] = layers
        parts["audio_config"][depth] = max(round(layers * audio / text), 1)
        scratch.mkdir(parents=True, exist_ok=True)
        (scratch / "config.json").write_text(json.dumps(config), encoding="utf-8")
        seen.append(rehearse_stage(stage, machine, scratch).peak.phases)
    few, more = seen
    return round(max(few[phase] + (more[phase] - few[phase]) / least * (text - least) for phase in few))


def check_stage(stage: Stage) -> None:
    """Refuse what cannot be planned.

    Raises:
        UserError: It is no stage that trains a student.
    """
    name = stage.model["class_path"].rpartition(".")[2]
    if name not in ("SFTModule", "GRPOModule"):
        raise UserError(f"plan knows what lightning_modules.SFTModule and GRPOModule need, not {name}")
    if not torch.distributed.is_available():
        raise UserError("plan needs a torch with torch.distributed")
