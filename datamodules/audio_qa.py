"""What the DataModules of all datasets have in common."""

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from datamodules.batching.clip_requests import ClipRequests, RequestSettings, clip_request
from datamodules.batching.collate import BringsProcessor, Collator, read_processor, said_of_cuts
from datamodules.batching.items import Item, Prepared, decoded
from datamodules.batching.loading import loader_settings, own_share, rank_of
from datamodules.batching.resume_point import ResumePoint, fingerprint, state_of
from datamodules.batching.sampler import ResumableLoader, TrainBatchSampler
from datamodules.evaluation_variant import EvaluationVariant, check_prompt
from datamodules.media.audio import ClipFolder
from datamodules.media.probes import ProbeName
from datamodules.media.video import FrameFolder
from datamodules.prompts.questions import PROMPTS, TEACHER_PROMPTS, Prompt, PromptName, TeacherPromptName
from datamodules.reading.annotations import AnnotatedQuestion
from datamodules.reading.record_report import BadRecordPolicy
from datamodules.reading.splits import Splits
from records.completed import Completed
from records.record_files import listed
from records.records import Question
from runtime.errors import UserError, refuse_below

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
    left_aside = "not in the subset"
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
        length_bucket: int = 1,
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
            length_bucket: Sort the questions of so many successive training batches by length (clip and targets), so
                that a batch holds questions of similar length; 1 leaves the random order as it is. Which questions
                share a bucket, and the order of its batches, stay random.
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
            ("length_bucket", length_bucket),
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
        refuse_below(0, "data.", num_workers=num_workers)
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
        self.length_bucket = length_bucket
        self.variant = EvaluationVariant(probe, option_order, tuple(listed(hints)))
        self.requests = requests
        check_prompt(self.prompt, self.variant, requests)
        self._collator: Collator | None = None
        self._train_sampler: TrainBatchSampler | None = None
        self._resume = ResumePoint()

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
            if (split := self.split_of(role)) is not None:
                self.splits.questions(split)
                if role == "train":
                    self.trained  # noqa: B018  (read now, so that what is wrong with it is said before the start)

    @cached_property
    def splits(self) -> Splits:
        """The questions of the dataset's splits, each read when it is first asked for."""
        return Splits(
            dataset=self.dataset,
            annotation_file=self.annotation_file,
            parse_row=self.parse_row,
            clips=self.clips,
            number_repeated_ids=self.number_repeated_ids,
            left_aside=self.left_aside,
            on_bad_record=self.on_bad_record,
            report_dir=self.report_dir,
            check_clips=self.validate_media,
            threads=self.num_workers,
            limit=self.limit,
        )

    def questions(self, role: Role) -> list[Question]:
        """Return the questions that serve a role, all ranks' together, in the file's order.

        Raises:
            UserError: The dataset has no split for the role.
        """
        split = self.split_of(role)
        if split is None:
            raise UserError(f"{type(self).__name__} has no questions for {role}")
        return self.splits.questions(split)

    @cached_property
    def trained(self) -> list[Item]:
        """What is trained on.

        Raises:
            UserError: The dataset has no split for training, or nothing to train on.
        """
        return self.train_items(self.questions("train"))

    def asked(self, role: Role) -> list[Question]:
        """Return the questions that serve a role as the model is asked them, all ranks' together.

        Raises:
            UserError: The dataset has no split for the role, or nothing to train on.
        """
        if role == "train":
            return [item.question for item in self.trained]
        return self.variant.asked(self.questions(role))

    def clip_seconds(self, question: Question) -> float | None:
        """Return how many seconds of a question's clip are used, where that is known without decoding it."""
        if self.variant.probe == "swap":
            return None  # another clip is heard
        known = self.splits.clip_seconds.get(question.media)
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
        return 25 * self.splits.clip_seconds.get(item.question.media, 0.0) + text / 4

    def load(self, question: Question) -> np.ndarray:
        """Return a question's clip, mono float32 at 16 kHz.

        Raises:
            MediaError: The clip cannot be decoded.
        """
        return self.clips.load(question.media)

    # Loaders

    @property
    def collator(self) -> Collator:
        """Makes batches; built with the processor when it is first asked for.

        Raises:
            UserError: The processor cannot be loaded.
        """
        if self._collator is None:
            self._collator = Collator(self._load_processor(), self.prompt)
            lengths = list(self.splits.clip_seconds.values())
            if cut := said_of_cuts(self._collator.seconds, self.clips.max_seconds, lengths):
                rank_zero_warn(cut)
        return self._collator

    def _load_processor(self) -> Any:
        if self.processor is not None:
            return read_processor(self.processor)
        module = self.trainer.lightning_module if self.trainer is not None else None
        if not isinstance(module, BringsProcessor):
            raise UserError("data.processor is not set and the model has no processor of its own: set data.processor")
        return module.processor

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of training, from where training stands.

        Raises:
            UserError: There are fewer questions than a global batch has, or a checkpoint of other data is resumed.
        """
        items = self.trained
        rank, world_size = rank_of(self.trainer)
        if len(items) < self.batch_size * world_size:
            raise UserError(
                f"{len(items)} training questions do not fill a batch of {self.batch_size} on {world_size} devices: "
                "use more questions or lower data.batch_size"
            )
        self._resume.check(self._fingerprint(), self.trainer, self._train_sampler is None, type(self).__name__)
        self._train_sampler = TrainBatchSampler(
            len(items),
            self.batch_size,
            self.seed,
            rank=rank,
            world_size=world_size,
            position=partial(self._resume.position, self.trainer),
            lengths=[self.length(item) for item in items],
            pool=self.length_bucket,
        )
        return ResumableLoader(
            Prepared(items, partial(decoded, clips=self.clips)),
            batch_sampler=self._train_sampler,
            collate_fn=self.collator,
            **loader_settings(self.num_workers),
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
        world_size = rank_of(self.trainer)[1]
        questions = self.questions(role)
        if role == "val" and all(question.answer is None for question in questions):
            raise UserError(
                f"none of the {len(questions)} questions for validation has an answer, so that nothing can be "
                "validated: use test or predict, which write what the model says to them"
            )
        if len(questions) < world_size:
            raise UserError(f"{len(questions)} questions for {role} are fewer than the {world_size} devices")
        asked = own_share(self.trainer, self.variant.asked(questions, say_for=self.dataset))
        heard = self.variant.heard(self.clips, questions)
        dataset: Dataset[Any]
        collate: Callable[[list[Any]], Any]
        if self.requests is None:
            items = [Item(question, question.answer_text) for question in asked]
            dataset, collate = Prepared(items, partial(decoded, clips=heard)), self.collator
        else:
            seen = FrameFolder(self.root, follow_links=self.clips.follow_links, sampling=self.requests.frames)
            dataset = Prepared(
                asked,
                partial(
                    clip_request,
                    prompt=self.prompt,
                    settings=self.requests,
                    heard=heard,
                    seen=seen,
                    answered=frozenset(self.completed.predictions),
                ),
            )
            collate = ClipRequests
        return DataLoader(
            dataset, batch_size=self.eval_batch_size, collate_fn=collate, **loader_settings(self.num_workers)
        )

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        """Return what training goes through and which batch is the next, for the checkpoint."""
        if self._train_sampler is None or self.trainer is None:
            return {}
        return state_of(self.trainer, self._train_sampler.epoch, self._fingerprint())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep where a checkpoint was, until training is resumed."""
        self._resume.restored = state_dict or None

    def _fingerprint(self) -> dict[str, Any]:
        global_batch = self.batch_size * (self.trainer.world_size if self.trainer is not None else 1)
        return fingerprint(self.trained, self.seed, global_batch, map(self.length, self.trained), self.length_bucket)
