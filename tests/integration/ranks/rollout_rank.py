"""Trains on CPU ranks with a server."""

import json
from pathlib import Path

import lightning
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch.utils.data import DataLoader

from callbacks.rollout.vllm_rollout import VLLMRollout
from datamodules.batching.batch import AudioQABatch
from datamodules.batching.sampler import ResumableLoader
from inference.weight_transfer.gloo import GlooTransfer
from tests.support.questions import Learner, Questions

GLOBAL_BATCH = 4


class JsonlShards(Questions):
    """Global batches of four questions, split contiguously over the ranks."""

    def train_dataloader(self) -> DataLoader[AudioQABatch]:
        """This rank's part of each global batch."""
        size = GLOBAL_BATCH // self.trainer.world_size
        first = size * self.trainer.global_rank
        mine = [
            example
            for start in range(first, len(self.examples), GLOBAL_BATCH)
            for example in self.examples[start : start + size]
        ]
        return ResumableLoader(mine, size, collate_fn=self.collate)


class ShardedLearner(Learner):
    """A learner whose weights are spread over the ranks."""

    def configure_model(self) -> None:
        """Spread them."""
        if not self.student.sharded:
            self.student.shard(self.device_mesh["data_parallel"])


def strategy(devices: int, sharded: int) -> Strategy | str:
    """How the ranks work together."""
    if sharded:
        return ModelParallelStrategy(devices, 1, save_distributed_checkpoint=False, process_group_backend="gloo")
    return DDPStrategy(process_group_backend="gloo") if devices > 1 else "auto"


def main(
    weights: str,
    url: str,
    devices: int,
    output: str,
    staleness: int = 0,
    sharded: int = 0,
    sent: bool = False,
    reference_urls: tuple[str, ...] = (),
) -> None:
    """Train for three steps."""
    module = ShardedLearner(weights) if sharded else Learner(weights)
    module.reference_urls = reference_urls
    rollouts = VLLMRollout(
        [url],
        max_new_tokens=6,
        parity_gate=False,
        retry_seconds=20,
        seed=7,
        run_id="run",
        max_staleness=staleness,
        weight_transfer=GlooTransfer(bucket_mib=1, seconds=60.0) if sent else None,
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy(devices, sharded),
        use_distributed_sampler=False,
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[rollouts],
    )
    trainer.fit(module, JsonlShards(module.student.processor, 12, GLOBAL_BATCH))
    result = [
        {
            "questions": [question.id for question in batch.questions],
            "ids": batch.completions.ids.tolist(),  # type: ignore[union-attr]
            "version": batch.completions.weight_version,  # type: ignore[union-attr]
            "prompts": [ids[:size] for ids, size in zip(batch.prompt_ids.tolist(), batch.prompt_lengths, strict=True)],
            "lengths": batch.completions.lengths.tolist(),  # type: ignore[union-attr]
            "reference": batch.completions.reference_logprobs.tolist() if reference_urls else None,  # type: ignore[union-attr]
        }
        for batch in module.train_batches
    ]
    Path(f"{output}.{trainer.global_rank}").write_text(json.dumps(result))
