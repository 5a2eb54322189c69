"""A clip of a corpus: a part of a video that stays where it is."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from records.record_files import read_records
from records.records import Record, RecordError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class Clip(Record):
    """A part of a file that is used as a clip of its own; nothing of the file is copied.

    Attributes:
        clip: Its id, which is safe as a file's name.
        path: The file relative to the corpus's root; for a member of a tar archive the archive.
        start: Where it begins, in seconds after the beginning of the file.
        end: Where it ends.
        source: Where the file is from, such as an address.
        license: Under which licence it may be used; empty where that is not known.
        member: Name of the archive's member, or empty.
        offset: Where the member's bytes begin in the archive.
        size: How many bytes the member has.
    """

    schema: ClassVar[str] = "clip/1"

    clip: str
    path: str
    start: float
    end: float
    source: str = ""
    license: str = ""
    member: str = ""
    offset: int = 0
    size: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be a clip.

        Raises:
            RecordError: The id is not safe as a file's name, or times or bytes make no sense.
        """
        if not _NAME.fullmatch(self.clip):
            raise RecordError(f"{self.clip!a} cannot be a clip's id: it has to be safe as a file's name")
        if not 0 <= self.start < self.end < float("inf"):
            raise RecordError(f"clip {self.clip}: it cannot last from {self.start} to {self.end} s")
        if self.member and (self.offset < 0 or self.size <= 0):
            raise RecordError(f"clip {self.clip}: {self.size} bytes from {self.offset} on cannot be a member")


def read_clips(paths: Iterable[str]) -> dict[str, Clip]:
    """Return clips by their id.

    Args:
        paths: Files of clips and folders of such files.

    Raises:
        RecordError: A file is missing, a line is malformed, or two clips have the same id.
    """
    clips: dict[str, Clip] = {}
    for clip in read_records(paths, Clip):
        if clips.setdefault(clip.clip, clip) != clip:
            raise RecordError(f"two clips have the id {clip.clip}: name the clips of one corpus only")
    return clips
