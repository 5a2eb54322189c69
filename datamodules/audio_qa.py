"""What the DataModules of all datasets have in common."""

from abc import abstractmethod
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from datamodules.batching.collate import BringsProcessor, Collator, read_processor, said_of_cuts
from datamodules.batching.curriculum import Curriculum
from datamodules.batching.items import Item, Prepared, decoded
from datamodules.batching.loading import loader_settings, own_share, rank_of
from datamodules.batching.sampler import ResumableLoader
from datamodules.batching.spare_prompts import WantsSpares, with_spares
from datamodules.evaluation_batches import evaluation_batches, evaluation_requests
from datamodules.evaluation_variant import check_prompt
from datamodules.hearing import heard_only
from datamodules.media.audio import ClipFolder
from datamodules.reading.annotations import AnnotatedQuestion
from datamodules.reading.splits import Splits
from datamodules.settings import DataSettings
from datamodules.training_order import TrainingOrder
from records.clips import read_clips
from records.completed import Completed
from records.record_files import listed
from records.records import Question
from runtime.errors import UserError
from runtime.settings import takes

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

    settings: DataSettings
    dataset: str
    number_repeated_ids = False
    left_aside = "not in the subset"
    can_probe = True
    """False where loaders of its own would ignore ``probe``, ``option_order``, ``hints`` and ``requests``."""
    completed = Completed()
    """What earlier runs have completed; no clip is decoded for it. A callback that reads it from the disk says so."""

    @takes(DataSettings)
    def __init__(self, *root: Any, **settings: Any) -> None:
        """Describe the data, as :class:`.settings.DataSettings` does; nothing is read before ``setup``."""
        self.describe(DataSettings(*root, **settings))

    def describe(self, settings: DataSettings) -> None:
        """Begin; the ``__init__`` of a dataset that has settings of its own calls this, with these.

        Args:
            settings: What the data are.

        Raises:
            UserError: The settings do not fit each other, or the data.
        """
        super().__init__()
        if (settings.probe or settings.option_order is not None) and not self.can_probe:
            raise UserError(f"data.probe and data.option_order are for benchmarks; {type(self).__name__} has neither")
        if (settings.hearing or settings.silent_answers) and not self.can_probe:
            raise UserError(f"data.hearing and data.silent_answers are for students; {type(self).__name__} has neither")
        if (settings.hints or settings.requests) and not self.can_probe:
            raise UserError(f"data.hints and data.requests are for benchmarks; {type(self).__name__} has neither")
        self.settings = settings
        self.root = Path(settings.root)
        self.prompt, self.variant, self.requests = settings.whole_prompt, settings.variant, settings.requests
        check_prompt(self.prompt, self.variant, self.requests)
        self.clips = ClipFolder(
            Path(settings.clips_root or settings.root),
            settings.max_seconds,
            settings.cache_dir,
            settings.follow_links,
            read_clips(listed(settings.clips)) if settings.clips else None,
        )
        self.report_dir = settings.reports
        self._collator: Collator | None = None
        self._training = TrainingOrder(settings, self.length)

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
            on_bad_record=self.settings.on_bad_record,
            report_dir=self.report_dir,
            check_clips=self.settings.validate_media,
            threads=self.settings.num_workers,
            limit=self.settings.limit,
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
        items = self.train_items(self.questions("train"))
        if files := listed(self.settings.silent_answers):
            return heard_only(items, files, self.dataset, self.report_dir)
        return items

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
        if self.settings.processor is not None:
            return read_processor(self.settings.processor)
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
        module = self.trainer.lightning_module if self.trainer is not None else None
        spares = module.spare_prompts if isinstance(module, WantsSpares) else 0
        self._training.spares = spares
        return ResumableLoader(
            Prepared(items, partial(decoded, clips=self.clips)),
            batch_sampler=self._training.batches(items, self.trainer, type(self).__name__),
            collate_fn=partial(with_spares, collate=self.collator, spares=spares) if spares else self.collator,
            **loader_settings(self.settings.num_workers),
        )

    def follow(self, curriculum: Curriculum) -> None:
        """Have a curriculum draw the questions of training, from the next epoch or the resumed one on.

        Args:
            curriculum: The curriculum.
        """
        self._training.curriculum = curriculum

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Return this rank's share of the validation questions; with ``hearing`` also of those asked again."""
        plain = self._eval_loader("val")
        hearing = self.settings.hearing
        if hearing is None:
            return plain
        questions = self.questions("val")
        chosen = hearing.chosen(questions, rank_of(self.trainer)[1])
        return [plain] + [
            evaluation_batches(
                own_share(self.trainer, variant.asked(chosen)),
                self.settings,
                variant.heard(self.clips, questions),
                self.collator,
            )
            for variant in hearing.variants(self.variant)
        ]

    def test_dataloader(self) -> DataLoader[Any]:
        """Return this rank's share of the test questions."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return this rank's share of the questions of prediction of which something remains to be made."""
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
        if role == "predict" and self.completed.samples is not None:
            asked = [question for question in asked if self.completed.lacks(question.id)] or asked[:1]  # all ranks ask
        heard = self.variant.heard(self.clips, questions)
        if self.requests is None:
            return evaluation_batches(asked, self.settings, heard, self.collator)
        return evaluation_requests(asked, self.settings, heard, self.clips, self.completed.predictions)

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        """Return what training goes through and which batch is the next, for the checkpoint."""
        return self._training.state(self.trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep where a checkpoint was, until training is resumed."""
        self._training.restore(state_dict)
