"""What is written about files while they are examined."""

from dataclasses import dataclass
from typing import Any, ClassVar

from records.records import Record

REASONS = (
    "malformed row",
    "unsafe path",
    "torn shard",
    "no video in sample",
    "duplicate key",
    "unreadable",
    "wrong duration",
    "no audio track",
    "no picture",
    "too short",
    "beyond the limit of a file",
    "silence",
    "too quiet",
    "clipped",
    "no motion",
    "indistinct",
    "benchmark",
    "near-duplicate",
)
"""Why something is left out: the first that holds, in the order in which it is looked for."""


@dataclass(frozen=True)
class Input(Record):
    """A file, or a part of one, from which clips are made.

    Attributes:
        path: The file relative to the root; for a member of a tar archive the archive.
        start: Where the part begins, in seconds.
        end: Where it ends; None is the end of the file.
        source: Where the file is from.
        license: Under which licence it may be used.
        member: Name of the archive's member, or empty.
        offset: Where the member's bytes begin in the archive.
        size: How many bytes the member has.
    """

    schema: ClassVar[str] = "input/1"

    path: str
    start: float = 0.0
    end: float | None = None
    source: str = ""
    license: str = ""
    member: str = ""
    offset: int = 0
    size: int = 0

    @property
    def name(self) -> str:
        """The file as it is called in reports."""
        return f"{self.path}!{self.member}" if self.member else self.path


@dataclass(frozen=True)
class LeftOut(Record):
    """What does not become a clip, and why.

    Attributes:
        name: The file, row or member.
        reason: One of ``REASONS``.
        detail: What was found, in words.
        start: Where the part begins, in seconds; None is the file as a whole.
        end: Where it ends.
        count: How many clips it would have been; a file as a whole counts once.
    """

    schema: ClassVar[str] = "left-out/1"

    name: str
    reason: str
    detail: str
    start: float | None = None
    end: float | None = None
    count: int = 1


@dataclass(frozen=True)
class Examined(Record):
    """What came of one input; one line, so that a run that is killed has it as a whole or not at all.

    Attributes:
        name: The input.
        clips: The fields of each clip (``records.clips.Clip``).
        prints: The fingerprint of each clip.
        left_out: The fields of what was left out.
        seconds: How long the input is, where that is known.
    """

    schema: ClassVar[str] = "examined/1"

    name: str
    clips: tuple[dict[str, Any], ...] = ()
    prints: tuple[str, ...] = ()
    left_out: tuple[dict[str, Any], ...] = ()
    seconds: float = 0.0
