"""The peak of a real step as torch's allocator tells it: ``FOLDER KIND LORA RANKS RANK PORT``; prints bytes."""

import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.profiler import ProfilerActivity, profile, record_function

from lightning_modules.grpo import GRPOModule
from lightning_modules.models.adapters import LoRASettings
from lightning_modules.models.checkpoints.loading import loading
from lightning_modules.sft import SFTModule
from planning.fake_batch import fake_batch
from planning.rehearsal import Batches

QUESTIONS, GROUP, SECONDS, PROMPT, COMPLETION = 2, 4, 4.0, 40, 64
MARK = "second step"


class Marks(Callback):
    """Says when the second step begins."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: object, batch: object, batch_idx: int) -> None:
        if batch_idx == 1:
            with record_function(MARK):
                pass


def measured(folder: str, kind: str, lora: bool, ranks: int) -> int:
    settings = {"lora": LoRASettings()} if lora else {}
    make = SFTModule if kind == "sft" else GRPOModule
    strategy = ModelParallelStrategy(ranks, 1, save_distributed_checkpoint=False, process_group_backend="gloo")
    with (
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen,
        loading(shapes_of=lambda _: Path(folder)),
    ):
        module = make(folder, micro_batch_size=1 if kind == "grpo" else None, **settings)
        trainer = Trainer(
            accelerator="cpu",
            devices=ranks,
            strategy=strategy if ranks > 1 else "auto",
            max_steps=2,
            logger=False,
            callbacks=[Marks()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        group = GROUP if kind == "grpo" else 1
        token = module.student.base.config.audio_token_id
        batch = fake_batch(
            module.student.architecture.front_end, QUESTIONS, group, token, 128, SECONDS, PROMPT, COMPLETION
        )
        trainer.fit(module, Batches([batch] * 2))
    events = sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    begun = next(event.start_ns() for event in events if event.name() == MARK)
    total = most = 0
    for event in events:
        if event.name() == "[memory]":
            total += event.nbytes()
            most = max(most, total) if event.start_ns() >= begun else most
    return most


if __name__ == "__main__":
    folder, kind, lora, ranks, rank, port = sys.argv[1:]
    torch.set_num_threads(1)
    if int(ranks) > 1:
        os.environ |= {"LOCAL_RANK": rank, "NODE_RANK": "0", "WORLD_SIZE": ranks}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    print(measured(folder, kind, lora == "lora", int(ranks)))
