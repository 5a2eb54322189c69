"""Writes what the teacher and the checker return, so that a killed run continues where it was."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from callbacks.shards import Shards
from datamodules.records import Record, Trace, UserError, Verdict
from datamodules.request_records import RequestError, Usage, spent

FOLDERS: dict[type[Record], str] = {Trace: "traces", Verdict: "verdicts", RequestError: "errors", Usage: "usage"}


class RecordWriter(Callback):
    """Writes results, errors and usage of ``predict`` to JSON lines while they are made.

    Below ``directory`` there are the folders ``traces`` or ``verdicts`` (whatever the stage makes), ``errors`` and
    ``usage``, each with one file of each rank, which that rank appends to. A run finds what is on disk already, repairs
    a line that was torn by a crash, and makes only what is missing. The files stay as they are at the end: the next
    stage reads the whole folder.

    Args:
        directory: Where to write.
        retry_errors: Ask again for what an endpoint refused for good, and for clips that could not be decoded.
    """

    def __init__(self, directory: str, retry_errors: bool = False) -> None:
        self.directory = Path(directory)
        self.retry_errors = retry_errors
        self._shards = Shards(self.directory, FOLDERS)
        self.written = 0

    def read(self, record: type[Record]) -> list[Any]:
        """Return the records of a kind that are on disk, of all ranks and runs."""
        return self._shards.read(record)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "predict":
            return
        kinds = (record_type(pl_module), RequestError, Usage)
        if trainer.is_global_zero or trainer.local_rank == 0:
            for file in self._shards.repair(kinds):
                rank_zero_info(f"{file}: the last line was torn by a crash and was removed")
        trainer.strategy.barrier("records repaired")
        module: Any = pl_module
        results = self.read(kinds[0])
        module.settled = {(one.question_id, one.sample) for one in results}
        if not self.retry_errors:
            module.settled |= {(e.question_id, e.sample) for e in self.read(RequestError) if e.permanent}
        if hasattr(module, "spent"):
            module.spent = spent(self.read(Usage))
        check_provenance(self.directory, results, getattr(module, "provenance", {}))
        if results:
            rank_zero_info(f"{self.directory}: {len(results)} {FOLDERS[kinds[0]]} were written before")
        trainer.strategy.barrier("records read")
        self.written = 0
        self._shards.open(kinds, trainer.global_rank)

    def _write(self, outcomes: Iterable[Any]) -> None:
        made = list(outcomes)
        if not made:
            return
        self._shards.append(Usage, (outcome.usage for outcome in made))  # first: what was paid for is never forgotten
        self._shards.append(RequestError, (error for outcome in made for error in outcome.errors))
        results = [record for outcome in made for record in outcome.records]
        if results:
            self.written += self._shards.append(type(results[0]), results)

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        module: Any = pl_module
        self._write(module.outcomes())

    @override
    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        for outcomes in module.drain():
            self._write(outcomes)
        self._shards.close()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._shards and hasattr(pl_module, "outcomes"):
            module: Any = pl_module
            self._write(module.outcomes())
            module.teardown("predict")
        self._shards.close()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._shards.close()


def record_type(pl_module: LightningModule) -> type[Record]:
    """Return what a module makes.

    Raises:
        UserError: It makes no records.
    """
    made = getattr(pl_module, "record_type", None)
    if made not in FOLDERS:
        raise UserError(
            f"{type(pl_module).__name__} makes no records: RecordWriter is for the teacher and the fact verifiers"
        )
    return made


def check_provenance(directory: Path, results: Iterable[Any], expected: dict[str, Any]) -> None:
    """Refuse to mix results of different settings in one folder.

    Args:
        directory: The folder, for the message.
        results: What is there.
        expected: Fields that every result must have, with their values.

    Raises:
        UserError: A result was made with other settings.
    """
    for one in results:
        for name, value in expected.items():
            if (found := getattr(one, name)) != value:
                raise UserError(
                    f"{directory} has results with {name} {found!r}, this run would add some with {value!r}: restore "
                    "the settings, or set trainer.default_root_dir to another folder"
                )
