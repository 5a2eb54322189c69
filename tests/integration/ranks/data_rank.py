"""Run by tests of the data: two processes with gloo, each writes which questions it got."""

import json
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy

from datamodules.avqa import AVQADataModule
from tests.support.recorder import Recorder


def main(root: str, processor: str, out: str) -> None:
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo"),
        use_distributed_sampler=False,
        max_steps=5,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        default_root_dir=out,
    )
    module = Recorder()
    trainer.fit(module, datamodule=AVQADataModule(root, processor=processor, batch_size=2, num_workers=0, seed=5))
    found = {"seen": [ids for _, _, ids in module.seen], "evaluated": module.evaluated}
    Path(out, f"rank{trainer.global_rank}.json").write_text(json.dumps(found))
