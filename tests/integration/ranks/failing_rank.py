"""A run of two CPU ranks of which one fails: ``failing_rank FOLDER HOW RANK`` starts both by Lightning's launcher."""

import os
import signal
import sys
import time
from pathlib import Path

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy

import callbacks.hung_ranks
from callbacks.fellow_ranks import FellowRanks
from callbacks.hung_ranks import HungRanks
from cli.ranks import end_with_launcher, run_rank


class Waits(lightning.LightningModule):
    """The rank that fails does so in its second batch, the other one waits for it in a collective."""

    def __init__(self, folder: Path, how: str, rank: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.folder, self.how, self.rank = folder, how, rank

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if batch_idx == 0:
            (self.folder / f"rank-{self.global_rank}").write_text(str(os.getpid()))
            self.trainer.strategy.barrier()
        elif self.global_rank == self.rank:
            time.sleep(0.3)
            (self.folder / "failed").write_text(str(time.time()))
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "told":
                raise SystemExit(128 + signal.SIGTERM)
            if self.how == "hang":
                time.sleep(3600)
            raise ValueError("a fault of this rank")
        elif self.how == "hang":
            self.trainer.strategy.barrier()
        else:
            # of a process that is gone gloo would say so at once; of one that hangs, as of NCCL, nothing is heard
            time.sleep(3600)
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Keeps(lightning.Callback):
    """Writes what the rank has when it ends in order, which takes its time."""

    def on_exception(self, trainer: lightning.Trainer, pl_module: Waits, exception: BaseException) -> None:
        time.sleep(0.5)
        (pl_module.folder / f"kept-{trainer.global_rank}").write_text(str(getattr(exception, "code", 1)))


def run(folder: Path, how: str, rank: int, watched: bool = True, **devices) -> None:
    callbacks.hung_ranks.SHARE = 2.0 / 1800  # of the half hour that ranks wait for each other
    fellows = FellowRanks()
    trainer = lightning.Trainer(
        accelerator="cpu",
        strategy=DDPStrategy(process_group_backend="gloo"),
        max_epochs=1,
        logger=False,
        callbacks=[fellows, HungRanks(fellows.lost), Keeps()] if watched else [],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        **devices,
    )
    data = torch.utils.data.DataLoader(torch.ones(3, 1), num_workers=0)
    trainer.fit(Waits(folder, how, rank), data)


def rank_by_hand(folder: Path, how: str, rank: int) -> None:
    """A rank that nobody watches over, as SLURM starts them."""
    run_rank(lambda: run(folder, how, rank, devices=2))


if __name__ == "__main__":
    end_with_launcher()
    run_rank(lambda: run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), watched=False, devices=2))
