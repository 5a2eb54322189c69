"""Questions with what is to be learned from them, decoded when they are needed."""

from dataclasses import dataclass

from torch.utils.data import Dataset

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


class QuestionDataset(Dataset[Example]):
    """Items whose clips are decoded when they are asked for, that is in the DataLoader's workers."""

    def __init__(self, items: list[Item], clips: Clips) -> None:
        """Make the dataset.

        Args:
            items: The items.
            clips: Where their clips are.
        """
        self.items = items
        self.clips = clips

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    def __getitem__(self, index: int) -> Example:
        """Return an item with its decoded clip.

        Raises:
            MediaError: The clip cannot be decoded.
        """
        item = self.items[index]
        try:
            waveform = self.clips.load(item.question.media)
        except MediaError as error:
            raise MediaError(
                f"{item.question.id}: {error}; with data.validate_media set to true such questions are found before "
                "the start and left out"
            ) from None
        return Example(item.question, waveform, item.label, item.targets)
