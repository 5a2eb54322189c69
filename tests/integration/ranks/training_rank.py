"""Runs a stage on one CPU rank or two and writes what it logged."""

import dataclasses
import json
from pathlib import Path

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.utils.data import DataLoader
from transformers import AutoProcessor

from datamodules.batching.batch import AudioQABatch
from lightning_modules.grpo import GRPOModule
from lightning_modules.models.student import LoRASettings
from lightning_modules.objectives.advantages import GDPO
from lightning_modules.objectives.averages import TokenMean
from lightning_modules.objectives.objective import Objective
from lightning_modules.reference_refresh import ReferenceRefresh
from lightning_modules.sft import SFTModule
from tests.support.students import make_batch

GLOBAL_BATCHES = 3


class JsonlShards(lightning.LightningDataModule):
    """The same four questions for every global batch, split contiguously; five questions to validate on."""

    def __init__(self, batch: AudioQABatch) -> None:
        super().__init__()
        self.batch = batch

    def train_dataloader(self) -> DataLoader:
        size = len(self.batch) // self.trainer.world_size
        start = size * self.trainer.global_rank
        return DataLoader([self.batch[start : start + size]] * GLOBAL_BATCHES, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        questions = [dataclasses.replace(self.batch.questions[0], id=f"v/{i}", answer=i % 2) for i in range(5)]
        mine = questions[self.trainer.global_rank :: self.trainer.world_size]
        batches = []
        for question in mine:
            one = self.batch[0:1]
            one.questions = [question]
            one.completions.texts = [["dog"]]
            batches.append(one)
        return DataLoader(batches, batch_size=None)


class Recorder(lightning.Callback):
    losses: list[float]

    def __init__(self) -> None:
        self.losses = []

    def on_train_batch_end(self, trainer, *_) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


STRATEGIES = {
    "auto": lambda: "auto",
    "ddp": lambda: DDPStrategy(process_group_backend="gloo"),
    "fsdp": lambda: ModelParallelStrategy(
        data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False, process_group_backend="gloo"
    ),
}


def main(stage: str, weights: str, strategy: str, output: str) -> None:
    lightning.seed_everything(0, verbose=False)
    processor = AutoProcessor.from_pretrained(weights)
    lengths = [[4, 7, 3, 6], [2, 5, 8, 1], [3, 3, 3, 3], [9, 2, 2, 7]]
    if stage == "micro":  # rank 0 has eight traces in four micro-batches, rank 1 three in two
        lengths[2:] = [[3, 0, 0, 0], [9, 2, 0, 0]]
    batch = make_batch(processor, [2.0, 0.9, 1.4, 1.0], lengths)
    assert batch.completions is not None
    batch.completions.texts[0] = ["<think>x</think><answer>cat</answer>"] * 2 + ["dog"] * 2  # rewards disagree here
    if stage in ("sft", "micro"):
        module: lightning.LightningModule = SFTModule(
            weights, lr=1e-3, micro_batch_size=2 if stage == "micro" else None
        )
    elif stage == "lora":  # what is counted, and normalised, over all ranks
        module = GRPOModule(
            weights, lr=1e-3, lora=LoRASettings(rank=2), objective=Objective(average=TokenMean(), advantages=GDPO())
        )
    else:
        refresh = ReferenceRefresh(every_n_steps=4, share=0.5)
        module = GRPOModule(weights, lr=1e-5, micro_batch_size=1, num_iterations=2, reference_refresh=refresh)
    before = {name: value.clone() for name, value in module.student.hub_tensors()}
    recorder = Recorder()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1 if strategy == "auto" else 2,
        strategy=STRATEGIES[strategy](),
        use_distributed_sampler=False,
        max_epochs=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[recorder],
    )
    trainer.fit(module, JsonlShards(batch))
    after = dict(module.student.hub_tensors())
    if trainer.is_global_zero or module.student.sharded:
        module.student.save_pretrained(Path(output).with_suffix(""))
    if trainer.is_global_zero:
        result = {
            "losses": recorder.losses,
            "norm": float(torch.stack([value.norm() for value in after.values()]).norm()),
            "moved": float(torch.stack([(after[name] - before[name]).norm() for name in after]).norm()),
            "accuracy": float(trainer.callback_metrics["val/accuracy"]),
            "questions": float(trainer.callback_metrics["val/questions"]),
        }
        Path(output).write_text(json.dumps(result))
