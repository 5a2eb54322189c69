"""What is asked of a clip, and what becomes of it when its turn comes, for students, the teacher and the checker."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch.utils.data import Dataset

from datamodules.batching.collate import Example
from datamodules.media.audio import ClipFolder, MediaError, WavFormat, wav_base64
from datamodules.media.media_files import is_lasting
from datamodules.media.probes import Clips
from datamodules.media.video import FrameFolder, jpeg_base64
from records.records import Question, Trace

Known = TypeVar("Known")
Made = TypeVar("Made")


class Prepared(Dataset[Made], Generic[Known, Made]):
    """Items that are prepared when they are asked for, that is in the DataLoader's workers."""

    def __init__(self, items: Sequence[Known], prepare: Callable[[Known], Made], keep: bool = False) -> None:
        """Make the dataset.

        Args:
            items: The items.
            prepare: Makes of an item what a batch needs of it, such as its decoded clip.
            keep: Keep in memory what was made, where there are few items and no workers.
        """
        self.items = items
        self.prepare = prepare
        self._kept: dict[int, Made] | None = {} if keep else None

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    def __getitem__(self, index: int) -> Made:
        """Return an item as it was prepared."""
        if self._kept is None:
            return self.prepare(self.items[index])
        if index not in self._kept:
            self._kept[index] = self.prepare(self.items[index])
        return self._kept[index]


@dataclass(frozen=True)
class Item:
    """A question with what is to be learned from it.

    Attributes:
        question: The question.
        label: Text of the option that is rewarded, or None.
        targets: Completions to learn (SFT).
    """

    question: Question
    label: str | None = None
    targets: tuple[str, ...] = ()


def decoded(item: Item, clips: Clips) -> Example:
    """Return an item with its decoded clip.

    Args:
        item: The item.
        clips: Where its clip is.

    Raises:
        MediaError: The clip cannot be decoded.
    """
    try:
        waveform = clips.load(item.question.media)
    except MediaError as error:
        raise MediaError(
            f"{item.question.id}: {error}; with data.validate_media set to true such questions are found before "
            "the start and left out"
        ) from None
    return Example(item.question, waveform, item.label, item.targets)


@dataclass(frozen=True)
class TeacherExample:
    """A question with what is seen in its clip.

    Attributes:
        question: The question.
        images: The frames in order, JPEG in base64.
        rate: How many of these frames there are in a second of the clip, or None when that cannot be said.
        error: Why there are none, or None.
        lasting: Whether the same would be found later: False where the machine was at fault and not the file.
    """

    question: Question
    images: tuple[str, ...] = ()
    rate: float | None = None
    error: str | None = None
    lasting: bool = True


def silent_clip(question: Question, clips: FrameFolder) -> TeacherExample:
    """Return a question with its frames, or with the reason why there are none.

    Args:
        question: The question.
        clips: Where its clip is and how it is sampled.
    """
    try:
        frames = clips.frames(question.media)
    except MediaError as error:
        return TeacherExample(question, error=str(error), lasting=is_lasting(error))
    return TeacherExample(question, tuple(jpeg_base64(frames.pixels, clips.sampling.quality)), frames.rate)


@dataclass(frozen=True)
class TracedClip:
    """The traces of one question with the sound of its clip.

    Attributes:
        question: The question.
        traces: Its traces.
        wav: The clip as a WAV file in base64.
        error: Why there is none, or None.
        lasting: Whether the same would be found later: False where the machine was at fault and not the file.
    """

    question: Question
    traces: tuple[Trace, ...]
    wav: str = ""
    error: str | None = None
    lasting: bool = True


def traced_clip(
    question: Question, traces: dict[str, list[Trace]], clips: ClipFolder, wav_format: WavFormat
) -> TracedClip:
    """Return the traces of a question with its clip, or with the reason why there is none.

    Args:
        question: The question.
        traces: Traces by their question's id.
        clips: Where its clip is.
        wav_format: How samples are written.
    """
    these = tuple(traces[question.id])
    try:
        waveform = clips.load(question.media)
    except MediaError as error:
        return TracedClip(question, these, error=str(error), lasting=is_lasting(error))
    return TracedClip(question, these, wav_base64(waveform, wav_format))
