"""Questions with what is to be learned from them."""

from dataclasses import dataclass

from datamodules.batching.collate import Example
from datamodules.media.audio import MediaError
from datamodules.media.probes import Clips
from records.records import Question


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
