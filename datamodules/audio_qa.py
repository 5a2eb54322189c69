"""What the DataModules of all datasets have in common."""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from datamodules.batching.clip_requests import ClipRequestDataset, ClipRequests, RequestSettings
from datamodules.batching.collate import Collator, said_of_cuts
from datamodules.batching.question_dataset import Item, QuestionDataset
from datamodules.batching.sampler import Position, ResumableLoader, TrainBatchSampler, eval_share
from datamodules.batching.worker_tensors import affordable_workers, prepare_worker
from datamodules.media.audio import ClipFolder
from datamodules.media.media_index import MediaIndex
from datamodules.media.probes import Clips, ProbedClips, ProbeName, derangement, mark, shuffle_options
from datamodules.media.video import FrameFolder
from datamodules.prompts.questions import PROMPTS, TEACHER_PROMPTS, Prompt, PromptName, TeacherPromptName
from datamodules.reading.annotations import AnnotatedQuestion
from datamodules.reading.hints import read_hints, with_hint
from datamodules.reading.question_reader import QuestionReader
from datamodules.reading.record_report import BadRecordPolicy, RecordReport
from records.completed import Completed
from records.records import Question, RecordError
from runtime.errors import UserError

Role = Literal["train", "val", "test", "predict"]
"""What a loader is for. Which split of the dataset serves a role is the dataset's choice."""

_ROLES_OF_STAGE: dict[str | None, tuple[Role, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
    None: ("train", "val", "test", "predict"),
}


class AudioQADataModule(LightningDataModule):
    """Multiple-choice questions about clips.

    Rows that cannot be used are named with file and row, counted, and written to a report; so are rows that were
    repaired. Each clip is decoded once before the start to find those that cannot be, and the result is remembered.
    """

    dataset: str
    number_repeated_ids = False
    can_probe = True
    """False where loaders of its own would ignore ``probe``, ``option_order``, ``hints`` and ``requests``."""
    completed = Completed()
    """What earlier runs have completed; no clip is decoded for it. A callback that reads it from the disk says so."""

    def __init__(
        self,
        root: str,
        processor: str | None = None,
        prompt: PromptName | TeacherPromptName | Prompt = "think",
        batch_size: int = 4,
        eval_batch_size: int | None = None,
        num_workers: int = 2,
        max_seconds: float = 30.0,
        on_bad_record: BadRecordPolicy = "skip",
        validate_media: bool = True,
        follow_links: bool = False,
        cache_dir: str | None = None,
        report_dir: str | None = None,
        limit: int | None = None,
        seed: int = 0,
        length_pool: int = 1,
        probe: ProbeName | None = None,
        option_order: int | None = None,
        hints: str | list[str] | None = None,
        requests: RequestSettings | None = None,
    ) -> None:
        """Describe the data; nothing is read before ``setup``.

        Args:
            root: Folder with the dataset as downloaded.
            processor: Hub name or folder of the processor; null takes the one of the model that is trained.
            prompt: Name of a prompt of ``datamodules.prompts.questions``, or a prompt's own name and template.
            batch_size: Questions in a training batch of one device.
            eval_batch_size: Questions in a batch of validation, test and prediction; null takes ``batch_size``.
            num_workers: Processes of each loader that decode clips and compute features; 0 uses the main process.
            max_seconds: Seconds of a clip that are used. What the feature extractor cannot hear is cut in any case.
            on_bad_record: What to do with a row or clip that cannot be used: leave it out and report it, or stop.
            validate_media: Before the start, look for missing clips and decode each clip once to find corrupt ones;
                what was found is remembered in ``report_dir``. Without it, a bad clip stops the run when it is reached.
            follow_links: Accept clips that are symbolic links to outside ``root``.
            cache_dir: Folder that keeps decoded waveforms; null decodes each time.
            report_dir: Folder of the report on bad records and of the index of checked clips; null is a folder beside
                ``root`` whose name ends in ``-report``.
            limit: Use only the first so many usable questions of each split.
            seed: Seed of the order of training.
            length_pool: Sort the questions of so many successive training batches by length (clip and targets), so that
                a batch holds questions of similar length; 1 leaves the random order as it is. Which questions share a
                pool, and the order of its batches, stay random.
            probe: In validation, test and prediction, replace the audio by silence, by another clip's (swap) or by
                noise of the same level; null leaves it. Training is never probed.
            option_order: In validation, test and prediction, show the options in an order drawn from this seed; null
                keeps the file's order.
            hints: In validation, test and prediction, put the teacher's reasoning into the prompt, which must have a
                place for it, as ``cot-distill`` has: a file of traces, a folder of such files, or a list of both. Of
                each question the first trace counts; how many questions have none is said.
            requests: In validation, test and prediction, prepare questions for a model behind an endpoint
                (``lightning_modules.RemoteQAModule``) and say what is sent of each clip; null makes batches
                for a model that is loaded here. ``validate_media`` looks at the sound only: with it set to false, clips
                that cannot be decoded become questions without an answer.
        """
        super().__init__()
        for name, value in (
            ("batch_size", batch_size),
            ("eval_batch_size", eval_batch_size),
            ("limit", limit),
            ("length_pool", length_pool),
        ):
            if value is not None and value < 1:
                raise UserError(f"data.{name} must be 1 or more, found {value}")
        if max_seconds <= 0:
            raise UserError(f"data.max_seconds must be more than 0, found {max_seconds}")
        if (probe or option_order is not None) and not self.can_probe:
            raise UserError(f"data.probe and data.option_order are for benchmarks; {type(self).__name__} has neither")
        if (hints or requests) and not self.can_probe:
            raise UserError(f"data.hints and data.requests are for benchmarks; {type(self).__name__} has neither")
        prompts = PROMPTS | TEACHER_PROMPTS
        if isinstance(prompt, str) and prompt not in prompts:
            raise UserError(f"data.prompt must be one of {', '.join(prompts)}, found {prompt!r}")
        self.root = Path(root)
        self.processor = processor
        self.prompt = prompts[prompt] if isinstance(prompt, str) else prompt
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers = num_workers
        self.on_bad_record: BadRecordPolicy = on_bad_record
        self.validate_media = validate_media
        self.clips = ClipFolder(self.root, max_seconds, cache_dir, follow_links)
        self.report_dir = Path(report_dir) if report_dir else self.root.parent / f"{self.root.name}-report"
        self.limit = limit
        self.seed = seed
        self.length_pool = length_pool
        self._clip_seconds: dict[str, float] = {}
        self.probe: ProbeName | None = probe
        self.option_order = option_order
        self.hints = [hints] if isinstance(hints, str) else list(hints or ())
        self.requests = requests
        self._check_prompt()
        self._splits: dict[str, list[Question]] = {}
        self._train_items: list[Item] | None = None
        self._collator: Collator | None = None
        self._train_sampler: TrainBatchSampler | None = None
        self._restored: dict[str, Any] | None = None

    # What a dataset defines

    @abstractmethod
    def split_of(self, role: Role) -> str | None:
        """Return the split that serves a role, or None when the dataset has none for it."""

    @abstractmethod
    def annotation_file(self, split: str) -> Path:
        """Return the annotation file of a split."""

    @abstractmethod
    def parse_row(self, row: dict[str, Any], split: str) -> AnnotatedQuestion | None:
        """Return a row in the terms of all datasets, or None when it does not belong to the selected subset.

        Raises:
            RowError: The row lacks something or has something of a wrong type.
        """

    # Reading

    def prepare_data(self) -> None:
        """Check all clips of the stage on one process, so that the others find the index on disk."""
        if self.trainer is not None:
            stage = self.trainer.state.fn.value if self.trainer.state.fn is not None else None
            self.setup(stage)

    def setup(self, stage: str | None = None) -> None:
        """Read the questions of a stage.

        Args:
            stage: ``fit``, ``validate``, ``test``, ``predict``, or None for all.

        Raises:
            UserError: A file cannot be read, no usable question remains, or the policy is to stop at bad records.
        """
        for role in _ROLES_OF_STAGE[stage]:
            split = self.split_of(role)
            if split is not None and split not in self._splits:
                self._splits[split] = self._read(split)
            if role == "train" and split is not None and self._train_items is None:
                self._train_items = self.train_items(self._splits[split])

    def questions(self, role: Role) -> list[Question]:
        """Return the questions that serve a role, all ranks' together, in the file's order.

        Raises:
            UserError: The dataset has no split for the role.
        """
        split = self.split_of(role)
        if split is None:
            raise UserError(f"{type(self).__name__} has no questions for {role}")
        if split not in self._splits:
            self._splits[split] = self._read(split)
        return self._splits[split]

    def asked(self, role: Role) -> list[Question]:
        """Return the questions that serve a role as the model is asked them, all ranks' together.

        Raises:
            UserError: The dataset has no split for the role, or nothing to train on.
        """
        questions = self.questions(role)
        if role == "train":
            if self._train_items is None:
                self._train_items = self.train_items(questions)
            return [item.question for item in self._train_items]
        hints = read_hints(self.hints, questions) if self.hints else {}
        return [self._asked(question, hints.get(question.id)) for question in questions]

    def clip_seconds(self, question: Question) -> float | None:
        """Return how many seconds of a question's clip are used, where that is known without decoding it."""
        if self.probe == "swap":
            return None  # another clip is heard
        known = self._clip_seconds.get(question.media)
        return min(known, self.clips.max_seconds or known) if known else None

    def train_items(self, questions: list[Question]) -> list[Item]:
        """Return what is trained on: here each question with its right option as label.

        Raises:
            UserError: A question has no right option.
        """
        if unknown := [question.id for question in questions if question.answer is None]:
            raise UserError(
                f"{len(unknown)} of {len(questions)} questions have no answer ({unknown[0]} is the first), and without "
                "one there is nothing to train on: leave them out of the annotation file"
            )
        return [Item(question, question.answer_text) for question in questions]

    def length(self, item: Item) -> float:
        """Return about how many tokens an item has: 25 for each second of its clip, one for four characters."""
        text = len(item.question.text) + sum(map(len, item.question.options)) + sum(map(len, item.targets))
        return 25 * self._clip_seconds.get(item.question.media, 0.0) + text / 4

    def load(self, question: Question) -> np.ndarray:
        """Return a question's clip, mono float32 at 16 kHz.

        Raises:
            MediaError: The clip cannot be decoded.
        """
        return self.clips.load(question.media)

    def _read(self, split: str) -> list[Question]:
        file = self.annotation_file(split)
        report = RecordReport(self.on_bad_record)
        reader = QuestionReader(
            dataset=self.dataset,
            split=split,
            parse_row=self.parse_row,
            clips=self.clips,
            number_repeated_ids=self.number_repeated_ids,
            report=report,
        )
        index = None
        if self.validate_media:
            threads, limit = max(self.num_workers, 1), self.clips.max_seconds
            index = MediaIndex(self.report_dir / "checked-clips.jsonl", self.clips.decode, threads, limit)
        questions = reader.read(file, index, self.limit)
        if index is not None:
            self._clip_seconds |= {q.media: index.seconds(self.clips.path(q.media)) for q in questions}
        name = f"{self.dataset}-{split}"
        if getattr(rank_zero_only, "rank", 0) == 0:
            report_file = self.report_dir / f"{name}.bad.jsonl"
            report.write(report_file)
            if report.findings:
                say = rank_zero_warn if report.left_out else rank_zero_info
                say(f"{name}: {len(questions)} questions; {report.counts()}; each row is named in {report_file}")
            else:
                rank_zero_info(f"{name}: {len(questions)} questions")
        if unknown := sum(question.answer is None for question in questions):
            rank_zero_info(
                f"{name}: {unknown} of {len(questions)} questions have no answer in {file}: they can be asked, and no "
                "accuracy is counted for them"
            )
        if not questions:
            raise RecordError(f"{file}: no usable question remains: {report.counts() or 'none is in the subset'}")
        return questions

    # Loaders

    @property
    def collator(self) -> Collator:
        """Makes batches; built with the processor when it is first asked for.

        Raises:
            UserError: The processor cannot be loaded.
        """
        if self._collator is None:
            self._collator = Collator(self._load_processor(), self.prompt)
            if cut := said_of_cuts(self._collator.seconds, self.clips.max_seconds, list(self._clip_seconds.values())):
                rank_zero_warn(cut)
        return self._collator

    def _load_processor(self) -> Any:
        if self.processor is not None:
            from transformers import AutoProcessor

            if self.processor.startswith((".", "/", "~")) and not Path(self.processor).is_dir():
                raise UserError(f"data.processor: the folder {self.processor} does not exist")
            try:
                return AutoProcessor.from_pretrained(self.processor)
            except Exception as error:  # a damaged file may raise anything
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UserError(f"data.processor: {self.processor} has no processor to load ({reason})") from None
        student = getattr(getattr(self.trainer, "lightning_module", None), "student", None)
        if student is None or getattr(student, "processor", None) is None:
            raise UserError("data.processor is not set and the model has no processor of its own: set data.processor")
        return student.processor

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of training, from where training stands.

        Raises:
            UserError: There are fewer questions than a global batch has, or a checkpoint of other data is resumed.
        """
        if self._train_items is None:
            self._train_items = self.train_items(self.questions("train"))
        self._check_distributed()
        trainer = self.trainer
        world_size = trainer.world_size if trainer is not None else 1
        items = self._train_items
        if len(items) < self.batch_size * world_size:
            raise UserError(
                f"{len(items)} training questions do not fill a batch of {self.batch_size} on {world_size} devices: "
                "use more questions or lower data.batch_size"
            )
        self._check_restored()
        self._train_sampler = TrainBatchSampler(
            len(items),
            self.batch_size,
            self.seed,
            rank=trainer.global_rank if trainer is not None else 0,
            world_size=world_size,
            position=self._position,
            lengths=[self.length(item) for item in items],
            pool=self.length_pool,
        )
        return ResumableLoader(
            QuestionDataset(items, self.clips),
            batch_sampler=self._train_sampler,
            collate_fn=self.collator,
            **self._loader_settings(),
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Return this rank's share of the validation questions."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return this rank's share of the test questions."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return this rank's share of the questions of prediction."""
        return self._eval_loader("predict")

    def _eval_loader(self, role: Role) -> DataLoader[Any]:
        self._check_distributed()
        questions = self.questions(role)
        if role == "val" and all(question.answer is None for question in questions):
            raise UserError(
                f"none of the {len(questions)} questions for validation has an answer, so that nothing can be "
                "validated: use test or predict, which write what the model says to them"
            )
        trainer = self.trainer
        world_size = trainer.world_size if trainer is not None else 1
        if len(questions) < world_size:
            raise UserError(f"{len(questions)} questions for {role} are fewer than the {world_size} devices")
        share = eval_share(len(questions), trainer.global_rank if trainer is not None else 0, world_size)
        hints = self._read_hints(role)
        asked = [self._asked(questions[place], hints.get(questions[place].id)) for place in share]
        heard = self._heard(questions)
        dataset: Dataset[Any]
        collate: Callable[[list[Any]], Any]
        if self.requests is None:
            items = [Item(question, question.answer_text) for question in asked]
            dataset, collate = QuestionDataset(items, heard), self.collator
        else:
            seen = FrameFolder(self.root, follow_links=self.clips.follow_links, sampling=self.requests.frames)
            answered = self.completed.predictions
            dataset = ClipRequestDataset(asked, self.prompt, self.requests, heard, seen, answered.keys())
            collate = ClipRequests
        return DataLoader(dataset, batch_size=self.eval_batch_size, collate_fn=collate, **self._loader_settings())

    def _check_prompt(self) -> None:
        """Refuse a prompt that speaks of something that the model does not get."""
        name = self.prompt.name
        gets = "audio" if self.requests is None else self.requests.modalities
        if self.prompt.modalities != gets:
            fitting = [p.name for p in (PROMPTS | TEACHER_PROMPTS).values() if p.modalities == gets]
            raise UserError(
                f"data.prompt {name!r} speaks of {self.prompt.modalities}, but the model gets {gets} "
                f"(data.requests.modalities): choose one of {', '.join(fitting)}, or set the prompt's own modalities"
            )
        if self.hints and not self.prompt.takes_hint:
            raise UserError(f"data.hints needs a prompt with a place for them, as cot-distill has; {name!r} has none")
        if self.prompt.takes_hint and not self.hints:
            raise UserError(f"data.prompt {name!r} needs the teacher's traces: set data.hints to their folder")
        if self.probe and gets == "video":
            raise UserError("data.probe tampers with the audio, of which nothing is sent (data.requests.modalities)")

    def _read_hints(self, role: Role) -> dict[str, str]:
        """Return the teacher's reasoning by the question's id, and say how many questions have none."""
        if not self.hints:
            return {}
        questions = self.questions(role)
        hints = read_hints(self.hints, questions)
        say = rank_zero_info if len(hints) == len(questions) else rank_zero_warn
        say(
            f"{self.dataset}: {len(hints)} of {len(questions)} questions are asked with the teacher's reasoning, "
            f"{len(questions) - len(hints)} without, because they have no trace in {', '.join(self.hints)}"
        )
        return hints

    def _asked(self, question: Question, hint: str | None = None) -> Question:
        """Return a question as evaluation asks it."""
        question = with_hint(question, hint)
        if self.option_order is not None:
            question = shuffle_options(question, self.option_order)
        return mark(question, self.probe) if self.probe else question

    def _heard(self, questions: list[Question]) -> Clips:
        """Return what evaluation lets the model hear."""
        if self.probe is None:
            return self.clips
        others = derangement(question.media for question in questions) if self.probe == "swap" else {}
        return ProbedClips(self.clips, self.probe, others)

    def _loader_settings(self) -> dict[str, Any]:
        workers = affordable_workers(self.num_workers)
        if workers:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # they are forked
        return {
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "worker_init_fn": prepare_worker,
            "pin_memory": torch.cuda.is_available(),
        }

    def _check_distributed(self) -> None:
        trainer = self.trainer
        if trainer is None or trainer.world_size == 1:
            return
        if trainer._accelerator_connector.use_distributed_sampler:
            raise UserError(
                "the DataModule shares the questions out over the devices itself: "
                "set trainer.use_distributed_sampler to false"
            )

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        """Return what training goes through and which batch is the next, for the checkpoint."""
        if self._train_sampler is None or self.trainer is None:
            return {}
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        epoch, batch = self._train_sampler.epoch, progress.current.processed
        if progress.is_last_batch:
            epoch, batch = epoch + 1, 0
        return {**self._fingerprint(), "epoch": epoch, "batch": batch, "trained_batches": progress.total.processed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep where a checkpoint was, until training is resumed."""
        self._restored = state_dict or None

    def _position(self) -> Position:
        """Return the next batch of training: that of the checkpoint, or else the beginning of the present epoch."""
        trainer = self.trainer
        if trainer is None or getattr(trainer, "overfit_batches", False):
            return Position()
        if (restored := self._restored) and self._trained_batches() == restored["trained_batches"]:
            return Position(restored["epoch"], restored["batch"])
        return Position(trainer.current_epoch, 0)

    def _trained_batches(self) -> int:
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress if self.trainer is not None else None
        return progress.total.processed if progress is not None else 0

    def _fingerprint(self) -> dict[str, Any]:
        items = self._train_items or []
        ids = "\n".join(item.question.id for item in items)
        pool = {}
        if self.length_pool > 1:
            lengths = ",".join(f"{self.length(item):.1f}" for item in items)
            pool = {"length_pool": self.length_pool, "lengths": hashlib.sha256(lengths.encode()).hexdigest()[:16]}
        return {
            "seed": self.seed,
            "global_batch_size": self.batch_size * (self.trainer.world_size if self.trainer is not None else 1),
            "questions": len(items),
            "question_ids": hashlib.sha256(ids.encode()).hexdigest()[:16],
            **pool,
        }

    def _check_restored(self) -> None:
        """Refuse to go on within an epoch of other data: its remaining questions would not be those that are left."""
        if self._restored is None:
            if self._trained_batches() and self._train_sampler is None:
                rank_zero_warn(
                    f"the checkpoint has no position of a {type(self).__name__}: training begins with a new pass over "
                    "the questions"
                )
            return
        if self._restored["batch"] == 0:
            return
        now = self._fingerprint()
        then = {name: self._restored.get(name) for name in now}
        changed = [f"{name} {then[name]} -> {now[name]}" for name in now if then[name] != now[name]]
        if changed:
            raise UserError(
                "training cannot go on in the middle of an epoch with other data than it began with "
                f"({', '.join(changed)}): restore these settings, or resume from a checkpoint of an epoch's end"
            )
