"""Writes what the teacher and the checker return, so that a killed run continues where it was."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from datamodules.audio_qa import AudioQADataModule
from datamodules.media.audio import MediaError
from lightning_modules.doors import RecordStage, fitting
from records.changed_questions import without_changed
from records.completed import Completed, Place
from records.proposed_question import ProposedQuestion
from records.records import Question, Record, Trace, Verdict
from records.request_records import ItemResult, RequestError, Usage, spent
from records.shards import JsonlShards
from records.silent_answers import SilentAnswer
from runtime.errors import UserError
from runtime.uninterrupted import uninterrupted

FOLDERS: dict[type[Record], str] = {
    ProposedQuestion: "proposals",
    Trace: "traces",
    Verdict: "verdicts",
    SilentAnswer: "silent_answers",
    RequestError: "errors",
    Usage: "usage",
}

MODULES = "the teacher, the fact verifiers, SilentAnswersModule and the writer of questions, whose records it writes"


class RecordWriter(Callback):
    """Writes results, errors and usage of ``predict`` to JSON lines while they are made.

    Below ``directory`` there are the folders ``proposals``, ``traces`` or ``verdicts`` (whatever the stage makes),
    ``errors`` and ``usage``, each with one file of each rank, which that rank appends to. A run finds what is on disk
    already, repairs a line that was torn by a crash, and makes only what is missing. Each record says what its question
    asked (``Question.fingerprint``): where a question has changed since, it is asked again. The files stay as they are
    at the end: the next stage reads the whole folder.

    Args:
        directory: Where to write.
        retry_errors: Ask again for what an endpoint refused for good, and for clips that could not be decoded; clips
            that have changed since are asked about again in any case.
    """

    def __init__(self, directory: str, retry_errors: bool = False) -> None:
        self.directory = Path(directory)
        self.retry_errors = retry_errors
        self._shards = JsonlShards(self.directory, FOLDERS)
        self._questions: dict[str, Question] = {}
        self.written = 0

    def read(self, record: type[Record]) -> list[Any]:
        """Return the records of a kind that are on disk, of all ranks and runs, none of a question that has changed."""
        found = self._shards.read(record)
        return found if record is Usage else without_changed(found, self._questions.values())[0]

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "predict":
            return
        module = self._stage(pl_module)
        kinds = (module.record_type, RequestError, Usage)
        if trainer.is_global_zero or trainer.local_rank == 0:
            for file in self._shards.repair(kinds):
                rank_zero_info(f"{file}: the last line was torn by a crash and was removed")
        trainer.strategy.barrier("records repaired")
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        asked = datamodule.questions("predict") if isinstance(datamodule, AudioQADataModule) else []
        self._questions = {question.id: question for question in asked}
        results = self.read(kinds[0])
        done: set[Place] = {(one.question_id, one.sample) for one in results}
        if not self.retry_errors:
            failed = failed_for_good(self.read(RequestError), done)
            changed = with_changed_clips(failed, datamodule)
            done |= failed.keys() - changed
            for sentence in said_of_failed(failed, changed, self.directory):
                rank_zero_info(sentence)
        module.completed = Completed(frozenset(done), module.samples)
        if isinstance(datamodule, AudioQADataModule):  # others give all questions, and the module asks what remains
            datamodule.completed = module.completed
        module.spent = spent(self.read(Usage))
        on_disk = self._shards.read(kinds[0])
        check_provenance(self.directory, on_disk, module.provenance)
        if stale := without_changed(on_disk, asked)[1]:
            rank_zero_warn(
                f"{self.directory}: {len(stale)} {FOLDERS[kinds[0]]} are of questions that have changed since "
                f"({stale[0].question_id} is the first) and are not used; these questions are asked again. If that "
                "is not meant, restore the old questions; for other data, move the folder away or set "
                "trainer.default_root_dir to another one"
            )
        if results:
            rank_zero_info(f"{self.directory}: {len(results)} {FOLDERS[kinds[0]]} were written before")
        trainer.strategy.barrier("records read")
        self.written = 0
        self._shards.open(kinds, trainer.global_rank)

    def _stage(self, pl_module: LightningModule) -> RecordStage:
        module = fitting(pl_module, RecordStage, self, MODULES)
        if module.record_type not in FOLDERS:
            raise UserError(f"{type(self).__name__} does not fit {type(module).__name__}: it is for {MODULES}")
        return module

    def _take(self, module: RecordStage) -> None:
        """Write what has ended; a signal waits, so that nothing is lost between taking and writing."""
        with uninterrupted():
            self._write(module.outcomes())

    def _write(self, made: Sequence[ItemResult]) -> None:
        if not made:
            return
        self._shards.append(Usage, (outcome.usage for outcome in made))  # first: what was paid for is never forgotten
        self._shards.append(RequestError, (self._marked(error) for outcome in made for error in outcome.errors))
        results = [self._marked(record) for outcome in made for record in outcome.records]
        if results:
            self.written += self._shards.append(type(results[0]), results)

    def _marked(self, record: Any) -> Any:
        """Return a record with the fingerprint of its question."""
        question = self._questions.get(record.question_id)
        return record if question is None else dataclasses.replace(record, question_fingerprint=question.fingerprint)

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
        self._take(self._stage(pl_module))

    @override
    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = self._stage(pl_module)
        for _ in module.drain():
            self._take(module)
        self._shards.close()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._shards:  # only setup opens them, for a module that fits
            module = self._stage(pl_module)
            module.give_up(exception)
            self._take(module)
        self._shards.close()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._shards.close()


def check_provenance(directory: Path, results: Iterable[Any], expected: Mapping[str, Any]) -> None:
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
            if (found := vars(one)[name]) != value:
                raise UserError(
                    f"{directory} has results with {name} {found!r}, this run would add some with {value!r}: restore "
                    "the settings, or set trainer.default_root_dir to another folder"
                )


def failed_for_good(errors: Iterable[RequestError], made: Iterable[Place]) -> dict[Place, RequestError]:
    """Return what is not to be asked again, by question and sample.

    Args:
        errors: What could not be had in all runs.
        made: What could be had.
    """
    return {place: error for place, error in still_missing(errors, made).items() if error.permanent}


def still_missing(errors: Iterable[RequestError], made: Iterable[Place]) -> dict[Place, RequestError]:
    """Return the errors about what was not had in another run either, by question and sample.

    Of several about the same the last one counts; one about a question as a whole is over when anything was had of it.

    Args:
        errors: What could not be had in all runs.
        made: What could be had.
    """
    last: dict[Place, RequestError] = {}
    for error in sorted(errors, key=lambda error: error.created or 0.0):
        last[error.question_id, error.sample] = error
    done: set[Place] = set()
    for question, sample in made:
        done |= {(question, sample), (question, None)}
    return {place: error for place, error in last.items() if place not in done}


def with_changed_clips(failed: Mapping[Place, RequestError], datamodule: Any) -> set[Place]:
    """Return which failures are about clips that are others now than when they could not be decoded.

    Args:
        failed: What failed for good.
        datamodule: The stage's DataModule, which knows where the questions' clips are.
    """
    about_clips = {place: error for place, error in failed.items() if error.kind == "media"}
    if not about_clips or not isinstance(datamodule, AudioQADataModule):
        return set()
    media = {question.id: question.media for question in datamodule.questions("predict")}
    changed = set()
    for place, error in about_clips.items():
        try:
            state = datamodule.clips.path(media[error.question_id]).stat()
        except (KeyError, OSError, MediaError):
            continue  # it is not there
        if max(state.st_mtime, state.st_ctime) > (error.created or 0.0):  # a copy may keep the old time, but not both
            changed.add(place)
    return changed


def said_of_failed(failed: Mapping[Place, RequestError], changed: Iterable[Place], directory: Path) -> list[str]:
    """Return what a run says of earlier failures.

    Args:
        failed: What failed for good.
        changed: Which of it is asked again.
        directory: Where the errors are.
    """
    again = len({question for question, _ in changed})
    kept = {place: error for place, error in failed.items() if place not in set(changed)}
    said = []
    if again:
        said.append(f"{directory}: {again} questions are asked again, since their clips have changed")
    if kept:
        questions = len({question for question, _ in kept})
        kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(error.kind for error in kept.values()).most_common())
        said.append(
            f"{directory}: {questions} questions were recorded as failed for good ({kinds}) and are not asked again; "
            f"RecordWriter's retry_errors: true, or deleting {directory / 'errors'}, asks them again"
        )
    return said
